"""What an image file says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from ray_segformer.images._encoded import MAX_PIXELS, open_image
from ray_segformer.images._errors import as_image_error
from ray_segformer.images._lossy import lossy_format

_MIRRORED_OR_TURNED, _TURNED = range(2, 9), range(5, 9)  # EXIF orientations; those of the second swap the sides
_UNDO: dict[Any, Any] = {  # by the orientation
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: np.transpose,
    6: np.rot90,
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: lambda pixels: np.rot90(pixels, 3),
}
_DEEP = re.compile("16[BLN]")  # such as "RGB;16B"; "BGR;16" of BMP files is 16 bits for all channels together


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Attributes:
        format: Pillow's name of the format, such as "JPEG".
        mode: Pillow's mode, such as "RGB", "CMYK" or "P".
        height, width: in pixels, with the EXIF orientation applied.
        exif_rotated: whether the EXIF orientation turns or mirrors the image.
        deep: whether the file has more than 8 bits a channel.
        several_frames: whether the file is an animation or has several pages. The second picture of an MPO file, a
            preview or a depth map, does not count.
        lossy: the lossy format that the pixels were stored in; None if none is known.
    """

    format: str
    mode: str
    height: int
    width: int
    exif_rotated: bool
    deep: bool
    several_frames: bool
    lossy: str | None

    @property
    def kind(self) -> str:
        """The format and the mode, such as "PNG P"."""
        return f"{self.format} {self.mode}"


def read_header(content: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read what the bytes of an image file say of it.

    Args:
        content: encoded bytes.
        max_pixels: as for `to_rgb`.

    Raises:
        ImageError: it is no image in a known format, its header is damaged, or it is too large.
    """
    image = open_image(content, max_pixels)
    with as_image_error("decode the image"):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    sides_to_swap = orientation in _TURNED and image.format != "TIFF"  # of which Pillow gives the size as turned
    height, width = (image.width, image.height) if sides_to_swap else (image.height, image.width)
    return Header(
        format=image.format or "",
        mode=image.mode,
        height=height,
        width=width,
        exif_rotated=orientation in _MIRRORED_OR_TURNED,
        deep=image.mode.startswith(("I", "F")) or bool(_DEEP.search(pixel_coding(image))),
        lossy=lossy_format(image, content),
        several_frames=image.format != "MPO" and _has_second_frame(image),  # last, because it moves to that frame
    )


def as_stored(ids: npt.NDArray[Any], cell: Any) -> npt.NDArray[Any]:
    """Return the class ids of an upright image as its file stores the pixels, without the EXIF orientation.

    Args:
        ids: `(height, width)`, as `to_rgb` gives the image.
        cell: an image cell of the file.

    Raises:
        ImageError: as for `to_rgb`, before pixels are decoded.
    """
    image = open_image(cell, max(MAX_PIXELS, ids.size))
    with as_image_error("decode the image"):
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    return _UNDO[orientation](ids) if orientation in _UNDO else ids


def pixel_coding(image: Image.Image) -> str:
    """Return Pillow's name of how the file stores a pixel, such as "L;4"; "" if the image is decoded already."""
    tile: Any = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _has_second_frame(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except Exception:  # EOFError; or that frame is damaged, in one of many ways, which does not matter to the first
        return False
    return True
