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

import functools
import io
import math
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pandas as pd
import pyarrow.fs
from PIL import Image, ImageOps

# Refused above, before any pixel is decoded, if nobody says otherwise; where Pillow refuses too. As RGB 512 MB.
MAX_PIXELS = 178_956_970

# Why a cell is no image. Each is how the message of an `ImageError` begins.
CAUSES = (
    *("null", "empty", "cannot read", "not an image", "cannot decode", "too large"),
    *("wrong type", "wrong shape", "wrong pixels", "wrong annotation"),
)
_CAUSE = re.compile(
    rf"(?:row \d+ of the batch(?: \(.*?\))?: )?({'|'.join(CAUSES)})(?=: | the | in | for | \()", re.DOTALL
)

# WebP, TIFF, and GIF with an odd first frame ask for Pillow's own limit, twice its setting, themselves.
_LARGE_FOR_PILLOW = "too large for Pillow in this format, whose own limit is PIL.Image.MAX_IMAGE_PIXELS: {}"

# What a file holds at most: 16 bits of four channels for each pixel, and profiles, previews and the like.
_BYTES_A_PIXEL, _METADATA = 8, 64 * 2**20

# Whatever the limit, a tile of a TIFF file may have so many pixels. It is decoded whole.
_TILE_PIXELS, _TILE_TAGS = 4096 * 4096, (322, 323)

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
    """A cell that is no readable image; the message says why, beginning with one of `CAUSES`, and what was expected."""


def cause_of(error: str) -> str:
    """Which of `CAUSES` a text of an `error` column tells of; "other" for what somebody else put there."""
    found = _CAUSE.match(error)
    return found[1] if found else "other"


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
    image = _open(cell, max_pixels)
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
        raise ImageError(_LARGE_FOR_PILLOW.format(error)) from error
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ImageError(f"cannot decode the image: {_why(error)}") from error


def to_class_ids(cell: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The annotation in a cell: class ids, as they are stored (palette indices, not colours).

    Args:
        cell, max_pixels: as for `to_rgb`.

    Returns:
        `(H, W)`, uint8, or uint16 where an id is above 255.

    Raises:
        ImageError: as for `to_rgb`, or the annotation has several channels.
    """
    if isinstance(cell, np.ndarray):
        ids = np.asarray(cell[..., 0] if cell.ndim == 3 and cell.shape[-1] == 1 else cell)
    else:
        image = _open(cell, max_pixels)
        if len(image.getbands()) != 1:
            raise ImageError(f"wrong shape: an annotation has one channel of class ids, but its mode is {image.mode}")
        try:
            ids = np.asarray(ImageOps.exif_transpose(image))
        except Image.DecompressionBombError as error:
            raise ImageError(_LARGE_FOR_PILLOW.format(error)) from error
        except Exception as error:
            raise ImageError(f"cannot decode the annotation: {_why(error)}") from error
    if ids.dtype.kind not in "biu":
        raise ImageError(f"wrong pixels: an annotation holds integer class ids, not {ids.dtype}")
    if ids.ndim != 2 or ids.size == 0:
        raise ImageError(f"wrong shape: an annotation has the shape (H, W) or (H, W, 1), not {ids.shape}")
    _check_size(ids.shape[1], ids.shape[0], max_pixels)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > 65535:
        raise ImageError(f"wrong pixels: class ids are in [0, 65535], but these are in [{low}, {high}]")
    return ids.astype(np.uint8 if high <= 255 else np.uint16)


def encoded_bytes(cell: Any, max_pixels: int = MAX_PIXELS) -> bytes:
    """The file in a cell: bytes as they are, the content of a path or URI, or either of a `{"bytes", "path"}`.

    Args:
        cell: see the top of this module.
        max_pixels: refuse a file that is too large for an image of that many, before it is read.

    Raises:
        ImageError: there is nothing, or a file that cannot be read, or the cell holds a decoded image.
    """
    if isinstance(cell, Mapping):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if cell is None:
        raise ImageError("null: there is no image")
    if isinstance(cell, (str, os.PathLike)):
        content = _read_file(os.fspath(cell), _BYTES_A_PIXEL * max_pixels + _METADATA)
    elif isinstance(cell, (bytes, bytearray, memoryview)):
        content = bytes(cell)
    else:
        raise ImageError(
            f"wrong type: a {type(cell).__name__} is no image cell; expected a PIL image, an array (H, W) or "
            '(H, W, 1 | 3 | 4), encoded bytes, a path or URI, or {"bytes", "path"}'
        )
    if not content:
        raise ImageError("empty: 0 bytes")
    return content


def encode(pixels: np.ndarray | Image.Image, file_format: str, **options: Any) -> bytes:
    """A picture as the bytes of a file.

    Args:
        pixels: uint8 `(H, W, 3)`, RGB, class ids `(H, W)`, uint8 or uint16, or an image of Pillow's.
        file_format: Pillow's name, such as "PNG"; `options` are those of its `save`.
    """
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


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
    path = cell.get("path") if isinstance(cell, Mapping) else getattr(cell, "filename", None)
    return str(path) if isinstance(path, (str, os.PathLike)) and path else None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that the installed Pillow has: it fails on a name that it does not know."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(cell: Any, max_pixels: int) -> Image.Image:
    """A cell as a Pillow image whose size is known to be acceptable, and whose pixels are not yet decoded."""
    if isinstance(cell, Image.Image):
        image = cell
    else:
        content = encoded_bytes(cell, max_pixels)
        try:
            image = _identified(content)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(_LARGE_FOR_PILLOW.format(error)) from error
        except Exception as error:  # Pillow's formats raise many kinds
            raise ImageError(f"cannot decode the image: {_why(error)}") from error
    if image.width == 0 or image.height == 0:
        raise ImageError(f"empty: {image.width} x {image.height} pixels")
    _check_size(image.width, image.height, max_pixels)
    tags: Any = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag) for tag in _TILE_TAGS)
    if isinstance(width, int) and isinstance(height, int) and width * height > max(max_pixels, _TILE_PIXELS):
        raise ImageError(f"too large: it is stored in tiles of {width} x {height} pixels")
    return image


def _identified(content: bytes) -> Image.Image:
    """What `Image.open` returns, without its check of the size.

    That one's limit is a global of the process, and at half of it there is a warning.
    """
    for name in _formats():
        factory, accept = Image.OPEN[name]
        accepted = accept(content[:16]) if accept else True
        if accepted and not isinstance(accepted, str):  # text is why not
            try:
                return factory(io.BytesIO(content), "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # another format may know it
                continue
    raise ImageError(f"not an image in a known format ({', '.join(_formats())})")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"too large: {width} x {height} pixels, above the limit of {max_pixels}; if you trust the image and have "
            "the memory, raise it by max_pixels= (--max-pixels)"
        )


def _check_bytes(size: int, most: int) -> None:
    if size > most:
        raise ImageError(
            f"too large: a file of {size} bytes, above the {most} that an image needs at most; if it is one, raise the "
            "limit by max_pixels= (--max-pixels)"
        )


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__  # a MemoryError says nothing


def _local(path: str) -> str:
    """The path of a `file://` URI, whatever its bytes; anything else as it is."""
    if not path.startswith("file:///") or os.name == "nt":
        return path
    return os.fsdecode(unquote_to_bytes(path[len("file://") :].split("#")[0].split("?")[0]))


def _read_file(path: str, most: int) -> bytes:
    try:
        path = _local(path)
        if "://" not in path:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise OSError(f"{path} is a pipe or a device")  # which may never end
            _check_bytes(status.st_size, most)
            with open(path, "rb") as file:
                return file.read()
        file_system, path = pyarrow.fs.FileSystem.from_uri(path)
        with file_system.open_input_file(path) as file:
            _check_bytes(file.size(), most)
            return file.read()
    except ImageError:
        raise
    except Exception as error:  # pyarrow's file systems raise many kinds
        raise ImageError(f"cannot read the file: {_why(error)}") from error


def _array_to_rgb(array: np.ndarray, max_pixels: int) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (1, 3, 4)):
        raise ImageError(f"wrong shape: an image array has the shape (H, W) or (H, W, 1 | 3 | 4), not {array.shape}")
    if array.size == 0:
        raise ImageError(f"empty: the shape is {array.shape}")
    _check_size(array.shape[1], array.shape[0], max_pixels)
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
