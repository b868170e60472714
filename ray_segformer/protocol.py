"""How images are shown to the network: resized, in sliding windows, mirrored, at several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ray_segformer.images import ImageError
from ray_segformer.network import check_window
from ray_segformer.pretrained import ImageSettings

if TYPE_CHECKING:
    from ray_segformer.network import View

__all__ = ["Protocol"]

# mmsegmentation's protocol for ADE20K, in pixels
_SHORT_SIDE, _LONGEST, _MULTIPLE = 512, 2048, 32
_RESIZES = ("square", "short-side", "none")


@dataclass(frozen=True)
class Protocol:
    """How images are shown to the network. Masks and scores depend on it, so reports must name it.

    Attributes:
        resize: "square" resizes to the checkpoint's height and width, whatever the image's aspect ratio, as
            transformers does by default. "short-side", as mmsegmentation does, keeps the aspect ratio: the short side
            becomes 512 pixels, the long side at most 2048, and both are then rounded up to multiples of 32. "none" does
            not resize. None (default) does what the checkpoint's `preprocessor_config.json` says; with a `window` it is
            "none".
        flip: whether to average the logits of the image and of its mirror image. Default: False.
        window: the side of sliding windows, in pixels, as in mmsegmentation's mode "slide". Default: None, no windows.
        stride: the distance between windows, in pixels. Default: `window`, so that windows do not overlap.
        scales: the logits of the image at these sizes, relative to the resized one, are averaged, as in
            mmsegmentation's test-time augmentation. Default: `(1,)`.

    Raises:
        ValueError: an unknown `resize`, a `flip` that is not True or False, a `stride` without `window`, a window or
            stride below 1, a stride above `window`, no scales, or a scale that is not above 0 and below 100.
    """

    resize: Literal["square", "short-side", "none"] | None = None
    flip: bool = False
    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1,)

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize not in _RESIZES:
            raise ValueError(f"resize (--resize) is one of {_RESIZES}, or None, not {self.resize!r}")
        for name in ("flip", "window", "stride"):
            value = getattr(self, name)
            if isinstance(value, np.generic):  # summaries are JSON, which holds Python's numbers
                object.__setattr__(self, name, value.item())
        if not isinstance(self.flip, bool):  # any text would be true
            raise ValueError(f"flip (--flip) is True or False, not {self.flip!r}")
        if self.window is not None:
            check_window(self.window, self.window if self.stride is None else self.stride)
        elif self.stride is not None:
            raise ValueError("stride (--stride) needs sliding windows; give their size, window (--window)")
        try:
            scales = (scale.item() if isinstance(scale, np.generic) else scale for scale in self.scales)
            object.__setattr__(self, "scales", tuple(scales))
            are_scales = bool(self.scales) and all(0 < scale < 100 for scale in self.scales)
        except TypeError:  # one number, or text
            are_scales = False
        if not are_scales:
            raise ValueError(f"scales (--scales) are one or more numbers above 0 and below 100, not {self.scales!r}")

    @property
    def resize_of_image(self) -> Literal["square", "short-side", "none"] | None:
        """What is done to the image: `resize`, or "none" where that is not given and windows are."""
        return "none" if self.resize is None and self.window is not None else self.resize

    @property
    def resize_in_cpu_stage(self) -> Literal["square", "short-side", "none"] | None:
        """The `resize` of the preprocessor. Images that are shown at several sizes are resized beside the network."""
        return self.resize_of_image if self.scales == (1,) else "none"

    @property
    def has_loss(self) -> bool:
        """Whether there are logits of the whole image, to which a loss belongs."""
        return self.window is None and self.scales == (1,)

    @property
    def windows_alone(self) -> tuple[int, int] | None:
        """The side of windows and the distance between them, in pixels, if that is all that is done; else None."""
        if self.window is None or self.resize_of_image != "none" or self.flip or self.scales != (1,):
            return None
        return self.window, self.stride or self.window

    def network_size(self, settings: ImageSettings) -> tuple[int, int] | None:
        """Return the height and width of what the network is shown; None if that depends on the image.

        Args:
            settings: the checkpoint's own preprocessing.
        """
        if self.windows_alone is not None:  # images that are smaller than a window are an exception
            return self.windows_alone[0], self.windows_alone[0]
        if not self.has_loss:
            return None
        upright, wide = (resized(self.resize_of_image, settings, *size) for size in ((1000, 500), (500, 1000)))
        return upright if upright == wide else None

    def check_window(self, smallest: int) -> None:
        """Raise a `ValueError` if windows have fewer rows and columns than the network takes, which is `smallest`."""
        if self.window is not None and self.window < smallest:
            raise ValueError(f"window (--window) is at least {smallest} pixels for this model, not {self.window}")

    def check_sides(self, shown: Sequence[int], size: Sequence[int], settings: ImageSettings, smallest: int) -> None:
        """Check that the network is shown enough rows and columns of an image.

        Args:
            shown: height and width of the pixel values of the CPU stage.
            size: height and width of the image.
            settings: the checkpoint's own preprocessing.
            smallest: the fewest rows and columns that the network takes.

        Raises:
            ImageError: it is shown fewer.
        """
        side = min(shown)
        if self.scales != (1,):
            side = max(1, int(min(resized(self.resize_of_image, settings, *size)) * min(self.scales) + 0.5))
        side = side if self.window is None else min(side, self.window)
        if side < smallest:
            raise ImageError(
                f"too small: the network needs at least {smallest} pixels on each side, and gets {side}; "
                'resize="short-side" (--resize short-side) makes small images larger'
            )

    def options(self) -> dict[str, Any]:
        """Return the attributes that do not have their default, for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value != getattr(PLAIN, name)
        }

    def views(self, pixel_values: npt.NDArray[Any], size: tuple[int, int], settings: ImageSettings) -> list[View]:
        """Return the views of an image that `segment_views` averages.

        Args:
            pixel_values: `(3, height, width)`, of the CPU stage.
            size: height and width of the image.
            settings: the checkpoint's own preprocessing.

        Raises:
            ImageError: the pixel values would have to be resized, but are normalised already.
        """
        from ray_segformer.network import View

        looks = []
        for scale in self.scales:
            pixels = pixel_values
            if self.scales != (1,):
                height, width = resized(self.resize_of_image, settings, *size)
                scaled = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
                pixels = _at_size(pixel_values, scaled, settings)
            flips = (False, True) if self.flip else (False,)
            looks += [View(pixels, mirrored, self.window, self.stride) for mirrored in flips]
        return looks

    def describe(self, settings: ImageSettings) -> str:
        """Return the protocol as a line of text.

        Args:
            settings: the checkpoint's own preprocessing.
        """
        resize = self.resize_of_image
        if resize == "none":
            how = "at the image's own size"
        elif resize == "short-side":
            how = (
                f"aspect ratio kept, short side {_SHORT_SIDE}, long side at most {_LONGEST}, multiples of {_MULTIPLE} "
                "(mmsegmentation's)"
            )
        elif resize == "square":
            how = f"resized to {settings.height} x {settings.width}, whatever the aspect ratio"
        else:
            how = f"{_own_size(settings)} (the checkpoint's own, as in transformers)"
        if self.window is not None:
            how = f"windows of {self.window} pixels every {self.stride or self.window}, {how}"
        if self.scales != (1,):
            how += f", logits averaged over the scales {', '.join(f'{scale:g}' for scale in self.scales)}"
        return how + (", logits averaged with the mirror image's" if self.flip else "")


PLAIN = Protocol()
NAMES = ("resize", "window", "stride", "flip", "scales")


def protocol_in(options: Mapping[str, Any]) -> Protocol:
    """Return the protocol that the options of a `SegformerPredictor` say."""
    return Protocol(**{name: options[name] for name in NAMES if name in options})


def resized(resize: str | None, settings: ImageSettings, height: int, width: int) -> tuple[int, int]:
    """Return the height and width to which an image of a size is resized; see `Protocol`."""
    if resize == "none" or (resize is None and not settings.do_resize):
        return height, width
    if resize == "square":
        return settings.height, settings.width
    if resize == "short-side":
        return short_side_size(height, width)
    return settings.resized(height, width)


def short_side_size(height: int, width: int) -> tuple[int, int]:
    """Return the height and width to which "short-side" resizes an image of a size."""
    scale = min(_SHORT_SIDE / min(height, width), _LONGEST / max(height, width))
    height, width = (max(1, -(-int(side * scale + 0.5) // _MULTIPLE)) * _MULTIPLE for side in (height, width))
    return height, width


def _at_size(pixel_values: npt.NDArray[Any], size: tuple[int, int], settings: ImageSettings) -> npt.NDArray[Any]:
    if pixel_values.shape[-2:] == size:
        return pixel_values
    if pixel_values.dtype != np.uint8:
        raise ImageError("scales need pixel_values of uint8, which can be resized; these are normalised already")
    image = Image.fromarray(np.ascontiguousarray(pixel_values.transpose(1, 2, 0)))
    return np.asarray(image.resize(size[::-1], settings.resample)).transpose(2, 0, 1)


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
