"""Image cells, whatever a column holds, to RGB arrays: the only module that knows cells.

A cell is one of

* a `PIL.Image.Image`,
* an array `(H, W)` or `(H, W, 1 | 3 | 4)`: bool, or any integer dtype with values in [0, 255], or uint16; floats only
  if they are whole numbers in [0, 255] and some are above 1: Ray Data makes them of an image beside a float one,
* encoded bytes: JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF or TGA,
* the path or URI of such a file (any file system that pyarrow knows: `s3://`, `gs://`, `file://`, ...),
* the struct `{"bytes": ..., "path": ...}` of Hugging Face `datasets`.

Each kind of image has one result. As transformers' pipelines do, EXIF orientation is applied, alpha is
dropped, greyscale is repeated, palette and CMYK are converted by Pillow. Of 16-bit images the high byte is
taken (Pillow alone would clip them to white). Of animations the first frame is taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from ray_segformer.images.encoded import LARGE_FOR_PILLOW, MAX_PIXELS, check_size, open_image, why
from ray_segformer.images.errors import ImageError


def to_rgb(cell: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image in a cell.

    Args:
        cell: see the top of this module.
        max_pixels: refuse an image of more, before its pixels are decoded. Decoding takes up to 18 bytes for each.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        ImageError: the cell is null, unreadable, too large, or of a wrong type, shape, dtype or range.
    """
    if isinstance(cell, np.ndarray):
        return _array_to_rgb(np.asarray(cell), max_pixels)
    image = open_image(cell, max_pixels)
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            values = np.asarray(image)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high > 65535:
                raise ImageError(f"wrong pixels: they are in [{low}, {high}]; expected 8 or 16 bits a channel")
            return _array_to_rgb(values.astype(np.uint16), max_pixels)
        if image.mode == "F":
            raise ImageError("wrong pixels: 32-bit floats have no defined range; expected 8 or 16 bits a channel")
        return np.array(image.convert("RGB"))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(LARGE_FOR_PILLOW.format(error)) from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ImageError(f"cannot decode the image: {why(error)}") from error


def cells(column: Any) -> Iterator[Any]:
    """The cells of a column: an array, a pandas Series or a list. Missing values (None, NaN, NA) come as None."""
    for cell in column:
        missing = cell is None or cell is pd.NA or (isinstance(cell, (float, np.floating)) and math.isnan(cell))
        yield None if missing else cell


def object_array(values: Iterable[Any]) -> np.ndarray:
    """Values as an object array `(N,)`, which NumPy by itself would stack where shapes agree."""
    values = list(values)
    array = np.empty(len(values), object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def describe(cell: Any) -> str | None:
    """The path of a cell that has one, to name it in an error."""
    if isinstance(cell, (str, os.PathLike)):
        return os.fspath(cell)
    path = cell.get("path") if isinstance(cell, Mapping) else getattr(cell, "filename", None)
    return str(path) if isinstance(path, (str, os.PathLike)) and path else None


def _array_to_rgb(array: np.ndarray, max_pixels: int) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ImageError(f"wrong shape: an image array has the shape (H, W) or (H, W, 1 | 3 | 4), not {array.shape}")
    if array.size == 0:
        raise ImageError(f"empty: the shape is {array.shape}")
    check_size(array.shape[1], array.shape[0], max_pixels)
    if array.dtype.kind == "f" and 1 < array.max() <= 255 and array.min() >= 0 and (array == np.floor(array)).all():
        array = array.astype(np.uint8)
    if array.dtype.kind not in "biu":
        raise ImageError(
            f"wrong pixels: an image array holds uint8 values in [0, 255] (or bool, or uint16), not {array.dtype}; "
            "convert it, by (255 * image).round().astype(np.uint8) if it is in [0, 1]"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
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
