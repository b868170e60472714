"""Scores of a model in training on the validation images of all workers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_segformer._segmenter import Segmenter
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.network import upsampled_argmax
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.protocol import PLAIN, Protocol
from ray_segformer.training._augmentation import IGNORED
from ray_segformer.training._workers import sum_over_workers


def evaluate(
    model: Any, preprocessor: SegformerPreprocessor, batches: Any, device: torch.device, protocol: Protocol = PLAIN
) -> dict[str, Any]:
    """Score the validation images of all workers, and leave the model in eval mode.

    Args:
        model: a transformers `SegformerForSemanticSegmentation`.
        preprocessor: normalises the images.
        batches: those of `TrainingRows.validation_batches`, of the same protocol.
        device: the model's device.
        protocol: how images are shown to the network for their masks. By default they are resized to its input size.

    Returns:
        The metrics of validation that `train_loop_per_worker` describes, and `per_category_iou`.
    """
    model.eval()
    metrics = SegmentationMetrics(model.config.num_labels)
    network = InTraining(model)
    segmenter = Segmenter(
        network, preprocessor, num_labels=model.config.num_labels, device=device.type, protocol=protocol
    )
    loss, counted, images = 0.0, 0, 0
    for batch, own_size_annotations, shown in batches:
        with torch.inference_mode():
            logits = network(preprocessor.normalize(batch["pixel_values"].to(device)))
            own_loss, own_counted = _losses(logits, batch["labels"].to(device))
        loss, counted = loss + own_loss, counted + own_counted
        sizes = [annotation.shape for annotation in own_size_annotations]
        masks: list[npt.NDArray[Any]]
        if protocol == PLAIN:
            masks = [upsampled_argmax(own, size) for own, size in zip(logits, sizes, strict=True)]
        else:
            masks, _, _ = segmenter.segment(shown, sizes, None, [None] * len(sizes), _raise)
        for mask, annotation in zip(masks, own_size_annotations, strict=True):
            metrics.update(mask, annotation)
            images += 1
    loss, counted, images = sum_over_workers(np.array([loss, counted, images]), device)
    metrics.confusion = sum_over_workers(metrics.confusion, device)
    scores = metrics.compute()
    del scores["per_category_accuracy"]
    return {"val_loss": float(loss / counted) if counted else math.nan, "validation_images": int(images), **scores}


class InTraining:
    """A transformers model in training, as a `Runtime`."""

    rows = 4  # windows that go through it at once

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return logits `(N, h, w, classes)`, float32, of normalised pixel values."""
        logits: torch.Tensor = self._model(pixel_values=pixel_values).logits
        return logits.float().permute(0, 2, 3, 1).contiguous()


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """Return the sum of the losses of the images that have annotated pixels, and the number of these images."""
    resized = torch.nn.functional.interpolate(
        logits.permute(0, 3, 1, 2), labels.shape[-2:], mode="bilinear", align_corners=False
    )
    losses = torch.nn.functional.cross_entropy(resized, labels, ignore_index=IGNORED, reduction="none")
    pixels = (labels != IGNORED).sum((1, 2))
    return (losses.sum((1, 2)) / pixels)[pixels > 0].sum().item(), int((pixels > 0).sum())


def _raise(row: int, error: Exception, **_: Any) -> None:
    raise error
