"""Encoded images: the bytes of a file, and the Pillow image in them before its pixels are decoded."""

from __future__ import annotations

import functools
import io
import os
import stat
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow.fs
from PIL import Image

from ray_segformer.images.errors import ImageError

# Refused above, before any pixel is decoded, if nobody says otherwise; where Pillow refuses too. As RGB 512 MB.
MAX_PIXELS = 178_956_970

# WebP, TIFF, and GIF with an odd first frame ask for Pillow's own limit, twice its setting, themselves.
LARGE_FOR_PILLOW = "too large for Pillow in this format, whose own limit is PIL.Image.MAX_IMAGE_PIXELS: {}"

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


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that the installed Pillow has: it fails on a name that it does not know."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def open_image(cell: Any, max_pixels: int) -> Image.Image:
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
            raise ImageError(LARGE_FOR_PILLOW.format(error)) from error
        except Exception as error:  # Pillow's formats raise many kinds
            raise ImageError(f"cannot decode the image: {why(error)}") from error
    if image.width == 0 or image.height == 0:
        raise ImageError(f"empty: {image.width} x {image.height} pixels")
    check_size(image.width, image.height, max_pixels)
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


def check_size(width: int, height: int, max_pixels: int) -> None:
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


def why(error: Exception) -> str:
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
        raise ImageError(f"cannot read the file: {why(error)}") from error
