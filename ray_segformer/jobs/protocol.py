"""How images are shown to the network for evaluation, and the predictor that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ray_segformer.batch_columns import of_path
from ray_segformer.images import object_array, to_rgb
from ray_segformer.predictor import SegformerPredictor
from ray_segformer.pretrained import ImageSettings

# mmsegmentation's protocol for ADE20K, in pixels
_SHORT_SIDE, _LONGEST, _MULTIPLE = 512, 2048, 32


@dataclass(frozen=True)
class Protocol:
    """How images are shown to the network. Scores depend on it, so reports must name it.

    Attributes:
        resize: "square" (default), as transformers does by default, resizes to the checkpoint's own size, whatever the
            image's aspect ratio. "short-side", as mmsegmentation does, keeps the aspect ratio: the short side becomes
            512 pixels, the long side at most 2048, and both are then rounded up to multiples of 32.
        flip: whether to average the logits of the image and of its mirror image. Default: False.
        window: the side of sliding windows, in pixels. The windows move over the image at its own size, and nothing is
            resized. Default: None, no windows.
        stride: the distance between windows, in pixels. Default: `window`, so that windows do not overlap.

    Raises:
        ValueError: an unknown `resize`, a `stride` without `window`, or a window or stride that `check_window` refuses.
    """

    resize: Literal["square", "short-side"] = "square"
    flip: bool = False
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.resize not in ("square", "short-side"):
            raise ValueError(f'resize is "square" or "short-side", not {self.resize!r}')
        if self.window is not None:
            from ray_segformer.network import check_window  # not at the top, because it imports torch

            check_window(self.window, self.stride or self.window)
        elif self.stride is not None:
            raise ValueError("stride (--stride) needs sliding windows; give their size, window (--window)")

    def describe(self, settings: ImageSettings) -> str:
        """Return the protocol as a line of text.

        Args:
            settings: the checkpoint's own preprocessing.
        """
        if self.window is not None:
            how = f"windows of {self.window} pixels every {self.stride or self.window}, at the image's own size"
        elif self.resize == "square":
            how = f"{_own_size(settings)} (transformers' preprocessing)"
        else:
            how = (
                f"aspect ratio kept, short side {_SHORT_SIDE}, long side at most {_LONGEST}, multiples of {_MULTIPLE} "
                "(mmsegmentation's)"
            )
        return how + (", logits averaged with the mirror image's" if self.flip else "") + "; scored at the image's size"


class EvaluationPredictor(SegformerPredictor):
    """A `SegformerPredictor` that shows images to the network by a `Protocol`.

    Its batches have the columns `path` and `image`.

    Args:
        source: see `SegformerPredictor`.
        protocol: the protocol.
        options: those of `SegformerPredictor`.
    """

    def __init__(self, source: Any, *, protocol: Protocol, **options: Any) -> None:
        super().__init__(source, **options)
        self._protocol = protocol
        self._segmenter.flip = protocol.flip
        self.set_preprocessor(None)  # The protocol resizes instead.

    def __call__(self, batch: Any) -> Any:
        """Predict a batch of `Dataset.map_batches`. The images stay: those with the worst scores are shown."""
        return {**super().__call__(batch), "image": batch["image"]}

    def _predict_numpy(self, data: Any) -> dict[str, npt.NDArray[Any]]:  # type: ignore[override]
        protocol = self._protocol
        if protocol.window is None and protocol.resize == "square":
            return super()._predict_numpy(data)
        images = []
        for path, cell in zip(data["path"], data["image"], strict=True):
            try:
                images.append(to_rgb(cell, self._images.max_pixels))
            except Exception as error:
                raise of_path(path, error) from error
        if protocol.window is not None:
            from ray_segformer.network import segment_windows

            stride = protocol.stride or protocol.window
            masks = [
                segment_windows(self._segmenter.logits, image, protocol.window, stride, ids_of=self._class_ids)
                for image in images
            ]
            return {"segmentation": object_array(masks)}
        resized = [
            np.asarray(Image.fromarray(image).resize(short_side_size(image), self._images.resample)) for image in images
        ]
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        pixel_values = object_array([image.transpose(2, 0, 1) for image in resized])
        return super()._predict_numpy({"pixel_values": pixel_values, "original_size": sizes})

    def _class_ids(self, logits: Any, size: tuple[int, int]) -> npt.NDArray[Any]:
        ids: npt.NDArray[Any] = self._segmenter.class_map(logits, size)[0]
        return ids


def _own_size(settings: ImageSettings) -> str:
    """Return what the checkpoint's own preprocessing does to the size of images, as text."""
    size = settings.size
    if not settings.do_resize:
        return "at the image's own size"
    if "height" in size:
        return f"resized to {settings.height} x {settings.width}, whatever the aspect ratio"
    if "max_height" in size:
        return f"aspect ratio kept, as large as fits into {settings.height} x {settings.width}"
    longest = f", long side at most {size['longest_edge']}" if "longest_edge" in size else ""
    return f"aspect ratio kept, short side {size['shortest_edge']}{longest}"


def short_side_size(image: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the width and height, in pixels, to which the protocol "short-side" resizes an image `(H, W, 3)`."""
    height, width = image.shape[:2]
    scale = min(_SHORT_SIDE / min(height, width), _LONGEST / max(height, width))
    width, height = (-(-int(side * scale + 0.5) // _MULTIPLE) * _MULTIPLE for side in (width, height))
    return width, height
