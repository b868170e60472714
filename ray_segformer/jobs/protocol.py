"""How images are shown to the network, on which scores depend, and the predictor that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from ray_segformer.images import ImageError, object_array, to_rgb
from ray_segformer.predictor import SegformerPredictor

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
            from ray_segformer.network import check_window  # here, not above: it imports torch

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
            from ray_segformer.network import segment_windows

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
