"""Image cells, whatever a column holds, to RGB arrays: the only module that knows cells.

A cell is one of

* a `PIL.Image.Image`,
* an array `(H, W)` or `(H, W, 1 | 3 | 4)`: bool, or any integer dtype with values in [0, 255], or uint16,
* encoded bytes: JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF or TGA,
* the path or URI of such a file (any file system that pyarrow knows: `s3://`, `gs://`, `file://`, ...),
* the struct `{"bytes": ..., "path": ...}` of Hugging Face `datasets`.

Each kind of image has one result. As transformers' pipelines do, EXIF orientation is applied, alpha is
dropped, greyscale is repeated, palette and CMYK are converted by Pillow. Of 16-bit images the high byte is
taken (Pillow alone would clip them to white). Of animations the first frame is taken.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.fs
from PIL import Image, ImageOps

# Refused above, before any pixel is decoded; also where Pillow refuses by itself. As RGB that many are 512 MB.
MAX_PIXELS = 178_956_970

# Named, because Pillow would also hand a file to programs outside (EPS to Ghostscript). JPEG includes MPO.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")

# File names that a folder is searched for.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff"),
        *(".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".avif", ".tga"),
    )
)


class ImageError(ValueError):
    """A cell that is no readable image; the message says why, and what was expected."""


def to_rgb(cell: Any) -> np.ndarray:
    """The image in a cell.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        ImageError: the cell is null, unreadable, too large (`MAX_PIXELS`), or of a wrong shape, dtype or range.
    """
    if isinstance(cell, np.ndarray):
        return _array_to_rgb(cell)
    image = _open(cell)
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            values = np.asarray(image)
            low, high = int(values.min()), int(values.max())
            if low < 0 or high > 65535:
                raise ImageError(f"pixels are in [{low}, {high}]; expected 8 or 16 bits a channel")
            return _array_to_rgb(values.astype(np.uint16))
        if image.mode == "F":
            raise ImageError("32-bit float pixels have no defined range; expected 8 or 16 bits a channel")
        return np.array(image.convert("RGB"))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ImageError(f"cannot decode the image: {error}") from error


def to_class_ids(cell: Any) -> np.ndarray:
    """The annotation in a cell: class ids, as they are stored (palette indices, not colours).

    Returns:
        `(H, W)`, uint8, or uint16 where an id is above 255.

    Raises:
        ImageError: as for `to_rgb`, or the annotation has several channels.
    """
    if isinstance(cell, np.ndarray):
        ids = cell[..., 0] if cell.ndim == 3 and cell.shape[-1] == 1 else cell
    else:
        image = _open(cell)
        if len(image.getbands()) != 1:
            raise ImageError(f"an annotation has one channel of class ids, but its mode is {image.mode}")
        try:
            ids = np.asarray(ImageOps.exif_transpose(image))
        except Exception as error:
            raise ImageError(f"cannot decode the annotation: {error}") from error
    if ids.dtype.kind not in "biu":
        raise ImageError(f"an annotation holds integer class ids, not {ids.dtype}")
    if ids.ndim != 2 or ids.size == 0:
        raise ImageError(f"an annotation has the shape (H, W) or (H, W, 1), not {ids.shape}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > 65535:
        raise ImageError(f"class ids are in [0, 65535], but these are in [{low}, {high}]")
    return ids.astype(np.uint8 if high <= 255 else np.uint16)


def encoded_bytes(cell: Any) -> bytes:
    """The file in a cell: bytes as they are, the content of a path or URI, or either of a `{"bytes", "path"}`.

    Raises:
        ImageError: there is nothing, or a file that cannot be read, or the cell holds a decoded image.
    """
    if isinstance(cell, Mapping):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if cell is None:
        raise ImageError("null: there is no image")
    if isinstance(cell, (str, os.PathLike)):
        content = _read_file(os.fspath(cell))
    elif isinstance(cell, (bytes, bytearray, memoryview)):
        content = bytes(cell)
    else:
        raise ImageError(
            f"a {type(cell).__name__} is no image cell; expected a PIL image, an array (H, W) or (H, W, 1 | 3 | 4), "
            'encoded bytes, a path or URI, or {"bytes", "path"}'
        )
    if not content:
        raise ImageError("empty: 0 bytes")
    return content


def reduce_labels(annotation: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """ADE20K's numbering, 0 for other and classes from 1, to the models': `ignore_index`, and classes from 0.

    Args:
        annotation: class ids, any shape and integer dtype. `ignore_index` stays.

    Returns:
        The same shape and dtype.
    """
    ignored = (annotation == 0) | (annotation == ignore_index)
    return np.where(ignored, ignore_index, annotation - np.where(ignored, 0, 1)).astype(annotation.dtype)


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
    if isinstance(cell, Mapping) and cell.get("path"):
        return str(cell["path"])
    return getattr(cell, "filename", None) or None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that the installed Pillow has: it fails on a name that it does not know."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(cell: Any) -> Image.Image:
    """A cell as a Pillow image whose size is known to be acceptable, and whose pixels are not yet decoded."""
    if isinstance(cell, Image.Image):
        image = cell
    else:
        try:
            image = Image.open(io.BytesIO(encoded_bytes(cell)), formats=_formats())
        except Image.DecompressionBombError as error:
            raise ImageError(f"too large: {error}") from error
        except Image.UnidentifiedImageError as error:
            raise ImageError(f"not an image in a known format ({', '.join(_formats())})") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise error if isinstance(error, ImageError) else ImageError(f"cannot open the image: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"too large: {image.width} x {image.height} pixels, above the limit of {MAX_PIXELS}")
    if image.width == 0 or image.height == 0:
        raise ImageError(f"empty: {image.width} x {image.height} pixels")
    return image


def _read_file(path: str) -> bytes:
    try:
        if "://" not in path:
            with open(path, "rb") as file:
                return file.read()
        file_system, path = pyarrow.fs.FileSystem.from_uri(path)
        with file_system.open_input_file(path) as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read the file: {error}") from error


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ImageError(f"an image array has the shape (H, W) or (H, W, 1 | 3 | 4), not {array.shape}")
    if array.size == 0:
        raise ImageError(f"empty: the shape is {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(f"too large: {array.shape[1]} x {array.shape[0]} pixels, limit {MAX_PIXELS}")
    if array.dtype.kind not in "biu":
        raise ImageError(
            f"an image array holds uint8 values in [0, 255] (or bool, or uint16), not {array.dtype}; "
            "convert it, by (255 * image).round().astype(np.uint8) if it is in [0, 1]"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise ImageError(f"an image array of {array.dtype} holds values in [0, 255], not [{low}, {high}]")
        array = array.astype(np.uint8)
    if array.ndim == 2:
        array = array[..., None]
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array[..., :3]
