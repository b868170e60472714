"""Image cells: the kinds of values that a column of images may hold, and how each becomes an RGB array.

A cell is one of

* a `PIL.Image.Image`,
* an array `(H, W)` or `(H, W, 1 | 3 | 4)`: bool, or any integer dtype with values in [0, 255], or uint16. Floats are
  accepted only if they are whole numbers in [0, 255] and at least one is above 1: Ray Data converts an integer array
  to such floats where its column also holds a float array,
* encoded bytes: JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF or TGA; HEIC and HEIF with the extra `heif`,
* the path or URI of such a file (any file system that pyarrow knows: `s3://`, `gs://`, `file://`, ...),
* the struct `{"bytes": ..., "path": ...}` of Hugging Face `datasets`,
* a part of a scene, as `ScenePart.as_cell` returns it,
* a frame of a video, the struct `{"path", "seconds", "start", "error"}` that `inputs` makes, with the extra `video`.

Each kind of image has one defined result. As in transformers' pipelines, EXIF orientation is applied, alpha is dropped,
greyscale is repeated, and palette and CMYK images are converted by Pillow. A 16-bit image gives its high byte (Pillow
alone would clip such images to white), and a TIFF file of 12 bits its high eight. A Pillow image of mode "I" gives the
high byte, too. Its values must be in [0, 65535]; one that is not of a file must have a value above 255, since its range
is not known otherwise. An animation gives its first frame. Three bands of a TIFF file that have no meaning (MinIsBlack)
are red, green and blue. A TIFF file of other bands, or of signed or 32-bit integers, is refused, and the message says
what it is. Text and colour profiles are not used.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import ExifTags, Image, ImageOps

from ray_segformer.images._array_files import ADVICE
from ray_segformer.images._encoded import MAX_PIXELS, check_size, open_image
from ray_segformer.images._errors import ImageError, as_image_error
from ray_segformer.images._header import pixel_coding
from ray_segformer.images._scene_parts import ScenePart
from ray_segformer.images._scenes import read_scene
from ray_segformer.images._uris import public_uri
from ray_segformer.images._video_frames import frame_to_rgb, is_frame

_STRIP_PIXELS = 2**22
_WITHOUT_RANGE = re.compile("I;(32.*|16.*S)")  # Pillow's names of how TIFF stores such integers
_PHOTOMETRIC_TAG, _MIN_IS_WHITE = 262, 0


def to_rgb(cell: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return the image in a cell as an RGB array.

    Args:
        cell: an image cell; see the top of this module.
        max_pixels: refuse a larger image before its pixels are decoded. Decoding takes up to 18 bytes a pixel.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        ImageError: the cell is null, unreadable, too large, or of a wrong type, shape, dtype or range.
    """
    if isinstance(cell, np.ndarray):
        return _array_to_rgb(np.asarray(cell), max_pixels)
    part = ScenePart.of(cell)
    if part is not None:
        return read_scene(part, max_pixels)
    if is_frame(cell):
        return frame_to_rgb(cell, max_pixels)
    image = open_image(cell, max_pixels)
    tags: Any = getattr(image, "tag_v2", {})
    stored = pixel_coding(image)
    if coding := _WITHOUT_RANGE.fullmatch(stored):
        kind = "32-bit" if coding[1].startswith("32") else "signed 16-bit"
        raise ImageError(
            f"wrong pixels: {kind} integers have no defined range; expected 8 or 16 bits a channel; read the file as a "
            "scene, with --bands and --range, or convert it"
        )
    is_file = image.format is not None
    with as_image_error("decode the image"):
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # without, Pillow would copy the image
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            values = np.asarray(image)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high > 65535:
                raise ImageError(f"wrong pixels: they are in [{low}, {high}]; expected 8 or 16 bits a channel")
            if image.mode == "I" and not is_file and 0 < high <= 255:  # as 16 bits it would be black
                raise ImageError(
                    f'wrong pixels: a Pillow image of mode "I" with values in [{low}, {high}] may have 8 bits or 16; '
                    'make it "L" if it has 8, by Image.fromarray(np.uint8(image)), else "I;16", by np.uint16'
                )
            values = values.astype(np.uint16) << (4 if stored.startswith("I;12") else 0)
            if tags.get(_PHOTOMETRIC_TAG) == _MIN_IS_WHITE:  # Pillow inverts only those of 8 bits
                values = np.invert(values)
            return _array_to_rgb(values, max_pixels)
        if image.mode == "F":
            raise ImageError("wrong pixels: 32-bit floats have no defined range; expected 8 or 16 bits a channel")
        return _rgb_pixels(image)


def _rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return a loaded image's pixels. A large one is converted in strips, and has no further copy in memory."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        return np.array(image.convert("RGB"))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(strip.convert("RGB"))
    return pixels


def cells(column: Any) -> Iterator[Any]:
    """Yield the cells of a column, with None for missing values (None, NaN, NA).

    Args:
        column: an array, a pandas Series or a list.
    """
    for cell in column:
        missing = cell is None or cell is pd.NA or (isinstance(cell, (float, np.floating)) and math.isnan(cell))
        yield None if missing else cell


def object_array(values: Iterable[Any]) -> npt.NDArray[np.object_]:
    """Return values as an object array `(N,)`. `np.array` would stack arrays of the same shape."""
    values = list(values)
    array = np.empty(len(values), object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def describe(cell: Any) -> str | None:
    """Return the path of a cell, to name it in an error message; None if it has no path.

    A URI is named without its options and password.
    """
    if isinstance(cell, (str, os.PathLike)):
        return public_uri(os.fspath(cell))
    path = cell.get("path") if isinstance(cell, Mapping) else getattr(cell, "filename", None)
    return public_uri(str(path)) if isinstance(path, (str, os.PathLike)) and path else None


def _array_to_rgb(array: npt.NDArray[Any], max_pixels: int) -> npt.NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        grey = array.ndim == 3 and array.shape[-1] == 2
        raise ImageError(
            f"wrong shape: an image array has the shape (H, W) or (H, W, 1 | 3 | 4), not {array.shape}"
            + (f"; it is probably grey with alpha, as ray.data.read_images gives it; {ADVICE}" if grey else "")
        )
    if array.size == 0:
        raise ImageError(f"empty: the shape is {array.shape}")
    check_size(array.shape[1], array.shape[0], max_pixels)
    if array.dtype.kind == "f" and 1 < array.max() <= 255 and array.min() >= 0 and (array == np.floor(array)).all():
        array = array.astype(np.uint8)
    if array.dtype.kind not in "biu":
        if array.dtype == object:
            raise ImageError(
                "wrong pixels: an array of Python objects, which np.array([image], object) makes of an image and of "
                'images of one size; leave object out, or give a list: {"image": [image]}'
            )
        raise ImageError(
            f"wrong pixels: an image array holds uint8 values in [0, 255] (or bool, or uint16), not {array.dtype}; "
            "convert it, by (255 * image).round().astype(np.uint8) if it is in [0, 1]"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # not `== np.uint16`, which is the native byte order only
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise ImageError(
                f"wrong pixels: an image array of {array.dtype} holds values in [0, 255], not [{low}, {high}]"
            )
        array = array.astype(np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array[..., :3]
