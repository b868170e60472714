"""The peers: SegFormer without this package, as its users run it.

Each function here is called in a process of its own (see `process`). It loads the model from a Hugging Face directory,
and returns the function that is measured. That is `logits(pixels)`, from normalised float32 pixel values (B, 3, H, W)
to float32 logits (B, H / 4, W / 4, classes), or `masks(paths, batch_size)`, from JPEG files to class ids at the images'
own sizes. Some take the dtype of the arithmetic as a further argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

Logits = Callable[[np.ndarray], np.ndarray]
Masks = Callable[[Sequence[str], int], list[Any]]


def load(directory: str) -> tuple[Any, Any]:
    """Load transformers' model and image processor; without torchvision, that is the Pillow one."""
    from transformers import AutoImageProcessor

    return load_model(directory), AutoImageProcessor.from_pretrained(directory)


def load_model(directory: str) -> Any:
    """Load transformers' model."""
    from transformers import SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation.from_pretrained(directory).eval()


def transformers_network(directory: str, compiled: bool = False) -> Logits:
    """Load transformers' model, with or without `torch.compile`. Return `logits(pixels)`."""
    model = load_model(directory)
    return network_of(torch.compile(model) if compiled else model)


def network_of(model: Any) -> Logits:
    """Return `logits` of a transformers model."""

    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(pixel_values=torch.from_numpy(pixels)).logits.permute(0, 2, 3, 1).numpy()

    return logits


def openvino_network(directory: str, threads: int) -> Callable[[np.ndarray, str], np.ndarray]:
    """Convert transformers' model with OpenVINO, for one image at a time. Return `logits(pixels, dtype)`."""
    compiled = _openvino(directory, threads, shape=(1, 3, 512, 512))
    return lambda pixels, dtype: compiled[dtype](pixels)[0].transpose(0, 2, 3, 1)


def _openvino(directory: str, threads: int, shape: Sequence[int]) -> dict[str, Any]:
    """Convert transformers' model with OpenVINO. Return the compiled models by dtype."""
    import openvino

    class LogitsOf(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values=pixel_values).logits

    model, _ = load(directory)
    with torch.no_grad():
        converted = openvino.convert_model(LogitsOf(model), example_input=torch.zeros(2, 3, 512, 512))
    converted.reshape(shape)
    settings = {"INFERENCE_NUM_THREADS": threads}
    return {
        dtype: openvino.Core().compile_model(converted, "CPU", {**settings, "INFERENCE_PRECISION_HINT": precision})
        for dtype, precision in (("float32", "f32"), ("bfloat16", "bf16"))
    }


def tutorial_loop(directory: str) -> Masks:
    """Return the usual loop of tutorials: image processor, model, post-processing, one batch at a time."""
    model, processor = load(directory)

    def masks(paths: Sequence[str], batch_size: int) -> list[np.ndarray]:
        results = []
        for start in range(0, len(paths), batch_size):
            images = [Image.open(path).convert("RGB") for path in paths[start : start + batch_size]]
            inputs = processor(images=images, return_tensors="pt")
            with torch.no_grad():
                outputs = model(**inputs)
            sizes = [(image.height, image.width) for image in images]
            results += processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return [result.numpy() for result in results]

    return masks


def windows_by_hand(directory: str, window: int, stride: int) -> Masks:
    """Return transformers' model in sliding windows, whose logits are added up at the image's size."""
    model, processor = load(directory)

    def mask(path: str, batch_size: int) -> np.ndarray:
        image = Image.open(path).convert("RGB")
        pixels = processor(images=image, do_resize=False, return_tensors="pt").pixel_values[0]
        tops, lefts = (
            [min(start, max(side - window, 0)) for start in range(0, max(side - window, 0) + stride, stride)]
            for side in pixels.shape[1:]
        )
        corners = [(slice(top, top + window), slice(left, left + window)) for top in tops for left in lefts]
        sums = torch.zeros(model.config.num_labels, *pixels.shape[1:])
        covers = torch.zeros(pixels.shape[1:])
        for start in range(0, len(corners), batch_size):
            crops = torch.stack([pixels[:, rows, columns] for rows, columns in corners[start : start + batch_size]])
            with torch.no_grad():
                logits = torch.nn.functional.interpolate(
                    model(pixel_values=crops).logits, crops.shape[-2:], mode="bilinear", align_corners=False
                )
            for (rows, columns), own in zip(corners[start : start + batch_size], logits, strict=True):
                sums[:, rows, columns] += own
                covers[rows, columns] += 1
        return sums.div_(covers).argmax(0).numpy()

    return lambda paths, batch_size: [mask(path, batch_size) for path in paths]


def openvino_loop(
    directory: str, threads: int, batch_size: int
) -> Callable[[Sequence[str], int, str], list[np.ndarray]]:
    """Return the same loop with OpenVINO's model: `masks(paths, batch_size, dtype)`.

    OpenVINO is faster with a fixed shape, so all batches are full, and of the `batch_size` given here.
    """
    from transformers.modeling_outputs import SemanticSegmenterOutput

    _, processor = load(directory)
    compiled = _openvino(directory, threads, shape=(batch_size, 3, 512, 512))

    def masks(paths: Sequence[str], batch_size: int, dtype: str) -> list[np.ndarray]:
        results = []
        for start in range(0, len(paths), batch_size):
            images = [Image.open(path).convert("RGB") for path in paths[start : start + batch_size]]
            inputs = processor(images=images, return_tensors="np")
            logits = torch.from_numpy(compiled[dtype](inputs["pixel_values"])[0])
            sizes = [(image.height, image.width) for image in images]
            outputs = SemanticSegmenterOutput(logits=logits)
            results += processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return [result.numpy() for result in results]

    return masks


def transformers_pipeline(directory: str) -> Masks:
    """Return transformers' `pipeline("image-segmentation")`.

    It returns no class map. It returns a list for each image, which has a label and a binary mask (a Pillow image) for
    each class that occurs. `class_map` converts that; the conversion is not measured.
    """
    from transformers import pipeline

    segment = pipeline("image-segmentation", model=directory, device="cpu")
    return lambda paths, batch_size: segment(list(paths), batch_size=batch_size)


def class_map(segments: list[dict[str, Any]], id2label: dict[str, str]) -> np.ndarray:
    """Convert the pipeline's result for an image to class ids (height, width)."""
    ids = {label: int(class_id) for class_id, label in id2label.items()}
    result = np.zeros((segments[0]["mask"].height, segments[0]["mask"].width), np.uint8)
    for segment in segments:
        result[np.asarray(segment["mask"]) > 0] = ids[segment["label"]]
    return result


class ByHand:
    """transformers in `Dataset.map_batches`, as in Ray's guide to batch inference.

    Args:
        directory: the directory of the model.
        threads: how many threads torch uses; None for Ray's default, which is the number of the actor's CPUs (1).
    """

    def __init__(self, directory: str, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.model, self.processor = load(directory)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return `path` and `segmentation` of a batch."""
        images = list(batch["image"])
        inputs = self.processor(images=images, return_tensors="pt")
        with torch.no_grad():
            outputs = self.model(**inputs)
        sizes = [image.shape[:2] for image in images]
        masks = self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return {"path": batch["path"], "segmentation": column([mask.numpy() for mask in masks])}


def by_torch_inference() -> type[Any]:
    """Return a subclass of Ray Data's `TorchInference`, which needs CUDA."""
    from ray.data.util.torch_inference import TorchInference

    class ByTorchInference(TorchInference):
        def initialize(self, directory: str) -> None:
            model, self.processor = load(directory)
            self.model = model.to(self.get_device())

        def collate(self, input_batch: dict[str, np.ndarray]) -> Any:
            inputs = self.processor(images=list(input_batch["image"]), return_tensors="pt")
            return {"pixel_values": inputs["pixel_values"]}, [image.shape[:2] for image in input_batch["image"]]

        def process_on_device(self, input_batch: Any, collated_tensors: Any, collated_other: Any) -> Any:
            outputs = self.model(pixel_values=collated_tensors["pixel_values"])
            masks = self.processor.post_process_semantic_segmentation(outputs, target_sizes=collated_other)
            return {"segmentation": masks}

        def finalize(self, input_batch: Any, output_tensors: Any, output_other: Any) -> dict[str, np.ndarray]:
            masks = [mask.numpy() for mask in output_tensors["segmentation"]]
            return {"path": input_batch["path"], "segmentation": column(masks)}

    return ByTorchInference


def column(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return masks of several sizes as an object array, which Ray Data accepts."""
    array = np.empty(len(masks), object)
    for row, mask in enumerate(masks):
        array[row] = mask
    return array
