"""Evaluation: annotated images through a pool of predictors to scores, the worst images and the confusions."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
from PIL import Image

from ray_segformer.images import MAX_PIXELS, ImageError, encode, object_array, reduce_labels, to_class_ids, to_rgb
from ray_segformer.metrics import SegmentationMetrics
from ray_segformer.predict import ENCODING_CPUS, with_progress
from ray_segformer.predictor import SegformerPredictor
from ray_segformer.windows import check_window, segment_windows

_SHORT_SIDE, _LONGEST, _MULTIPLE = 512, 2048, 32  # mmsegmentation's protocol for ADE20K


@dataclass(frozen=True)
class Protocol:
    """How images are shown to the network, on which scores depend.

    Attributes:
        resize: "square" is the checkpoint's own size whatever the image's shape, transformers' default; "short-side"
            keeps the shape, as mmsegmentation does: the shorter side 512 pixels, the longer at most 2048, both then
            rounded up to multiples of 32.
        flip: whether logits are the mean of the image's and its mirror image's.
        window, stride: pixels of sliding windows over the image at its own size, instead of resizing; None for none.
    """

    resize: Literal["square", "short-side"] = "square"
    flip: bool = False
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.resize not in ("square", "short-side"):
            raise ValueError(f'resize is "square" or "short-side", not {self.resize!r}')
        if self.window is not None:
            check_window(self.window, self.stride or self.window)
        elif self.stride is not None:
            raise ValueError("a stride is of windows; name their size with --window")

    def describe(self, height: int, width: int) -> str:
        """The protocol in a sentence; `height` and `width` are the checkpoint's own."""
        if self.window is not None:
            how = f"windows of {self.window} pixels every {self.stride or self.window}, at the image's own size"
        elif self.resize == "square":
            how = f"resized to {height} x {width}, whatever the shape (transformers' default)"
        else:
            how = (
                f"shape kept, short side {_SHORT_SIDE}, at most {_LONGEST}, multiples of {_MULTIPLE} (mmsegmentation's)"
            )
        return how + (", logits averaged with the mirror image's" if self.flip else "") + "; scored at the image's size"


class EvaluationPredictor(SegformerPredictor):
    """A `SegformerPredictor` by a `Protocol`, for batches with `path` and `image`; `options` are that one's."""

    def __init__(self, source: Any, *, protocol: Protocol, **options: Any):
        super().__init__(source, **options)
        self._protocol = protocol
        self.set_preprocessor(None)  # which resizes to the square

    def __call__(self, batch: Any) -> Any:
        """Predict a batch of `Dataset.map_batches`, and keep its images too, for those that turn out the worst."""
        return {**super().__call__(batch), "image": batch["image"]}

    def _predict_numpy(self, data: Any) -> dict[str, np.ndarray]:
        protocol = self._protocol
        if protocol.window is None and protocol.resize == "square":
            return super()._predict_numpy(data)
        images = []
        for path, cell in zip(data["path"], data["image"], strict=True):
            try:
                images.append(to_rgb(cell, self._images.max_pixels))
            except ImageError as error:
                raise ImageError(f"{path}: {error}") from error
        if protocol.window is not None:
            stride = protocol.stride or protocol.window
            masks = [segment_windows(self._logits, image, protocol.window, stride) for image in images]
            return {"segmentation": object_array(masks)}
        resized = [
            np.asarray(Image.fromarray(image).resize(short_side_size(image), self._images.resample)) for image in images
        ]
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        pixel_values = object_array([image.transpose(2, 0, 1) for image in resized])
        return super()._predict_numpy({"pixel_values": pixel_values, "original_size": sizes})

    def _logits(self, pixel_values: np.ndarray) -> Any:
        logits = super()._logits(pixel_values)
        if not self._protocol.flip:
            return logits
        mirrored = super()._logits(np.ascontiguousarray(pixel_values[..., ::-1]))
        return ((logits + mirrored.flip(2)) / 2).contiguous()


def short_side_size(image: np.ndarray) -> tuple[int, int]:
    """Width and height of an image `(H, W, 3)` by the protocol "short-side"."""
    height, width = image.shape[:2]
    scale = min(_SHORT_SIDE / min(height, width), _LONGEST / max(height, width))
    width, height = (-(-int(side * scale + 0.5) // _MULTIPLE) * _MULTIPLE for side in (width, height))
    return width, height


@dataclass(frozen=True)
class ScoredImage:
    """One image and its score.

    Attributes:
        accuracy: the share of its annotated pixels that are predicted right; NaN where none is annotated.
        path: where it came from.
        image: encoded bytes.
        annotation, prediction: PNGs of class ids in the model's numbering.
    """

    accuracy: float
    path: str
    image: bytes
    annotation: bytes
    prediction: bytes


def evaluate(
    dataset: ray.data.Dataset,
    checkpoint: Any,
    protocol: Protocol,
    *,
    workers: int,
    batch_size: int,
    reduce_annotations: bool,
    worst: int = 8,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
    **resources: Any,
) -> tuple[SegmentationMetrics, list[ScoredImage], int]:
    """Score a checkpoint on a dataset, streaming: the driver sees counts, and the images that were worst so far.

    Args:
        dataset: `path`, `image` and `annotation`, as `ray_segformer.datasets` reads them.
        checkpoint: a `SegformerCheckpoint`.
        workers: predictors at most.
        batch_size: images predicted at once.
        reduce_annotations: whether annotations are numbered as ADE20K's files are.
        worst: how many of the worst images to return.
        max_pixels: a larger image or annotation is an error; see `SegformerPreprocessor`.
        progress: whether to count images on stderr.
        resources: what a predictor reserves, for `map_batches`.

    Returns:
        The metrics of all images, the worst ones (the worst first), and how many images there were.
    """
    num_classes = checkpoint.content.num_labels
    scored = dataset.map_batches(
        EvaluationPredictor,
        fn_constructor_args=(ray.put(checkpoint),),
        fn_constructor_kwargs={"protocol": protocol, "max_pixels": max_pixels},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        **resources,
    )
    metrics = SegmentationMetrics(num_classes)
    images, worst_images = 0, list[ScoredImage]()
    score = _Score(num_classes, reduce_annotations, max_pixels)
    rows = scored.map_batches(score, batch_size=batch_size, num_cpus=ENCODING_CPUS).iter_rows()
    for row in with_progress(rows) if progress else rows:
        places, counts = np.frombuffer(row["counts"], np.int64).reshape(2, -1)
        metrics.confusion.ravel()[places] += counts
        images += 1
        if row["accuracy"] == row["accuracy"]:  # else nothing is annotated
            own = {name: row[name] for name in ("accuracy", "path", "image", "annotation", "prediction")}
            worst_images = heapq.nsmallest(worst, [*worst_images, ScoredImage(**own)], key=lambda image: image.accuracy)
    return metrics, worst_images, images


class _Score:
    """Turns predictions into an image's counts and accuracy, and its maps into PNGs. For `map_batches`."""

    def __init__(self, num_classes: int, reduce_annotations: bool, max_pixels: int):
        self._num_classes = num_classes
        self._reduce = reduce_annotations
        self._max_pixels = max_pixels

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {name: [] for name in ("accuracy", "counts", "annotation", "prediction")}
        for path, mask, cell in zip(batch["path"], batch["segmentation"], batch["annotation"], strict=True):
            metrics = SegmentationMetrics(self._num_classes)
            try:
                annotation = to_class_ids(cell, self._max_pixels)
                annotation = reduce_labels(annotation) if self._reduce else annotation
                metrics.update(mask, annotation)
            except ValueError as error:  # an ImageError is one
                raise ImageError(f"{path}: {error}") from error
            places = np.flatnonzero(metrics.confusion)
            columns["counts"].append(np.stack([places, metrics.confusion.ravel()[places]]).tobytes())
            columns["accuracy"].append(metrics.compute()["overall_accuracy"])
            columns["annotation"].append(encode(annotation, "PNG"))
            columns["prediction"].append(encode(mask, "PNG"))
        return {"path": batch["path"], "image": batch["image"], **columns}


def most_confused(metrics: SegmentationMetrics, count: int = 12) -> list[int]:
    """The class ids with the most pixels taken for another class or another class's taken for them, the worst first."""
    wrong = metrics.confusion - np.diag(np.diag(metrics.confusion))
    pixels = wrong.sum(axis=0) + wrong.sum(axis=1)
    return [int(class_id) for class_id in np.argsort(-pixels, kind="stable")[:count] if pixels[class_id]]
