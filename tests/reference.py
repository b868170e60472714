"""What the tests compare with: transformers and Pillow, used without this package."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil


class Reference:
    """A model and its image processor, as transformers loads them from a directory."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.model = SegformerForSemanticSegmentation.from_pretrained(self.directory).eval()
        self.processor = SegformerImageProcessorPil.from_pretrained(self.directory)

    def mask(self, image: Image.Image) -> np.ndarray:
        """Class ids (height, width) of an RGB image, at its own size."""
        inputs = self.processor(image, return_tensors="pt")
        with torch.no_grad():
            outputs = self.model(**inputs)
        sizes = [(image.height, image.width)]
        return self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0].numpy()

    def mask_at(self, image: Image.Image, size: tuple[int, int]) -> np.ndarray:
        """Class ids (height, width) of an RGB image that is resized to `size`, (height, width), for the network."""
        pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), np.float32) / 255
        pixels = (pixels - self.processor.image_mean) / self.processor.image_std
        logits = self._logits_of(torch.from_numpy(pixels.transpose(2, 0, 1)).float())[None]
        full = torch.nn.functional.interpolate(
            logits, (image.height, image.width), mode="bilinear", align_corners=False
        )
        return full[0].argmax(0).numpy()

    def averaged_logits(
        self,
        image: Image.Image,
        window: int | None = None,
        stride: int | None = None,
        flip: bool = False,
        scales: Any = (1,),
    ) -> torch.Tensor:
        """Logits (classes, height, width) of an RGB image by mmsegmentation's protocols, all at the image's size.

        Windows stand on the image at its own size; without windows it is resized to the processor's size.
        """
        total: Any = 0
        size = self.processor.size["height"], self.processor.size["width"]
        base = (image.height, image.width) if window else size
        for scale in scales:
            scaled = tuple(int(side * scale + 0.5) for side in base)
            pixels = np.asarray(image.resize(scaled[::-1], Image.Resampling.BILINEAR), np.float32) / 255
            pixels = (pixels - self.processor.image_mean) / self.processor.image_std
            tensor = torch.from_numpy(pixels.transpose(2, 0, 1)).float()
            for mirrored in (False, True) if flip else (False,):
                shown = tensor.flip(2) if mirrored else tensor
                logits = slide(self._upsampled, shown, window, stride or window) if window else self._logits_of(shown)
                logits = logits.flip(2) if mirrored else logits
                total = (
                    total
                    + torch.nn.functional.interpolate(
                        logits[None], (image.height, image.width), mode="bilinear", align_corners=False
                    )[0]
                )
        return total / (len(scales) * (2 if flip else 1))

    def _logits_of(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(pixel_values=pixels[None]).logits[0]

    def _upsampled(self, crop: torch.Tensor) -> torch.Tensor:
        logits = self._logits_of(crop)[None]
        return torch.nn.functional.interpolate(logits, crop.shape[-2:], mode="bilinear", align_corners=False)[0]

    def loss(self, image: Image.Image, annotation: np.ndarray, **options: Any) -> float:
        """The loss of one image; `options` are the processor's."""
        inputs = self.processor(image, segmentation_maps=annotation.copy(), return_tensors="pt", **options)
        with torch.no_grad():
            return self.model(**inputs).loss.item()

    def logits(self, model: Any | None = None) -> torch.Tensor:
        """What `model` (this one by default) makes of a fixed input."""
        pixels = torch.linspace(-2, 2, 2 * 3 * 64 * 96).reshape(2, 3, 64, 96)
        with torch.no_grad():
            return (self.model if model is None else model)(pixel_values=pixels).logits


def slide(logits_of: Any, pixels: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Logits (classes, height, width) by mmsegmentation's mode "slide", of an image (3, height, width).

    `logits_of` maps a crop to logits of the crop's size.
    """
    _, height, width = pixels.shape
    total: Any = None
    count = torch.zeros(height, width)
    for row in range(max(height - window + stride - 1, 0) // stride + 1):
        for column in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            logits = logits_of(pixels[:, top:bottom, left:right])
            if total is None:
                total = torch.zeros(len(logits), height, width)
            total[:, top:bottom, left:right] += logits
            count[top:bottom, left:right] += 1
    return total / count


def resized(processor: Any, image: Image.Image) -> np.ndarray:
    """The bytes (3, height, width) that transformers' processor resizes an RGB image to."""
    return processor(image, do_rescale=False, do_normalize=False, return_tensors="np").pixel_values[0]


def labels(processor: Any, image: Image.Image, annotation: np.ndarray) -> np.ndarray:
    """The labels (height, width) that transformers' processor makes; it would write into the annotation."""
    return processor(image, segmentation_maps=annotation.copy(), return_tensors="np").labels[0]


def small_model(num_labels: int = 7, seed: int = 0, **settings: Any) -> SegformerForSemanticSegmentation:
    """A random model that runs in milliseconds; its classes are called `class 0`, `class 1`, ..."""
    torch.manual_seed(seed)
    sizes = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}
    config = SegformerConfig(**{**sizes, "id2label": {i: f"class {i}" for i in range(num_labels)}, **settings})
    model = SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        model.decode_head.classifier.weight *= 30  # logits as far apart as a trained model's
    return model


def small_processor(**settings: Any) -> SegformerImageProcessorPil:
    """A processor for small images, whose statistics are not the default ones."""
    return SegformerImageProcessorPil(
        **{
            "size": {"height": 64, "width": 96},
            "image_mean": [0.4, 0.5, 0.6],
            "image_std": [0.2, 0.25, 0.3],
            **settings,
        }
    )


def save_small(directory: Path, model: Any = None, processor: Any = None) -> Path:
    """Write model and processor as transformers does."""
    (model or small_model()).save_pretrained(directory)
    (processor or small_processor()).save_pretrained(directory)
    return directory


def picture(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    """An RGB array with gradients and noise, so that flips, swapped axes and swapped channels show."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    smooth = np.stack([y * 200 // height, x * 200 // width, (x + y) * 150 // (height + width)], axis=-1)
    return (smooth + noise).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, file_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> Image.Image:
    """A file's bytes as Pillow opens them."""
    return Image.open(io.BytesIO(data))


def objects(*values: Any) -> np.ndarray:
    """An object array (N,)."""
    array = np.empty(len(values), object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def agreement(masks: Any, expected: Any) -> float:
    """The share of equal pixels, over all images."""
    pairs = list(zip(masks, expected, strict=True))
    assert all(mask.shape == other.shape for mask, other in pairs)
    return sum((mask == other).sum() for mask, other in pairs) / sum(mask.size for mask, _ in pairs)


def assert_same_model(model: Any, expected: Reference) -> None:
    """`model` has the weights of `expected` to the last bit, and its logits to rounding.

    Two runs of one model may differ in the last bits: which kernel torch takes depends on threads and on alignment.
    """
    found, weights = model.state_dict(), expected.model.state_dict()
    assert list(found) == list(weights)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    torch.testing.assert_close(expected.logits(model), expected.logits(), rtol=1e-4, atol=1e-4)


def need_openvino() -> None:
    """Skip the test where OpenVINO is not installed. Only `ray_segformer` imports it, without its telemetry."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip('no OpenVINO: pip install "ray_segformer[openvino]"')


def run_python(script: str, *arguments: Any, **environment: str) -> str:
    """What a script prints in a Python of its own."""
    paths = [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]  # that of tests/warm stays
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=600,  # of one that hangs
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
