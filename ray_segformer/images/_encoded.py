"""Encoded images: the bytes of a file, and the Pillow image in them before its pixels are decoded."""

from __future__ import annotations

import functools
import io
import os
import struct
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from PIL import Image

from ray_segformer.images import _heif as heif
from ray_segformer.images import _tiff as tiff
from ray_segformer.images._errors import ImageError, as_image_error
from ray_segformer.images._files import read_file
from ray_segformer.images._png import MAGIC as PNG_MAGIC
from ray_segformer.images._png import without_text

MAX_PIXELS = 178_956_970
"""The default limit of an image's size: 512 MiB as RGB. By default, Pillow refuses larger images, too."""

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff"),
        *(".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2", ".avif", ".tga"),
        *(heif.SUFFIXES if heif.INSTALLED else ()),
    )
)
"""The suffixes of the files that count as images in a folder."""

# Pillow's names. An explicit list, because Pillow hands files of some other formats to external programs (EPS to
# Ghostscript). JPEG includes MPO. HEIF is opened by `heif.open_heif`.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")

# The largest file that is read: 16 bits for each of four channels a pixel, and 64 MiB for profiles, previews and so on.
_BYTES_PER_PIXEL, _METADATA_BYTES = 8, 64 * 2**20

# Pillow decodes a tile of a TIFF file as a whole. A tile of up to 4096 x 4096 pixels is accepted even where
# `max_pixels` is lower.
_TILE_PIXELS = 4096 * 4096
_TILE_WIDTH_TAG, _TILE_LENGTH_TAG = 322, 323


def encoded_bytes(cell: Any, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the bytes of the image file in a cell.

    Args:
        cell: encoded bytes, or a path or URI whose file is read. A `{"bytes", "path"}` struct gives its bytes, or the
            content of its path if the bytes are null.
        max_pixels: refuse a file, before it is read, that is larger than any image of so many pixels.

    Raises:
        ImageError: the cell is null or empty, its file cannot be read or is too large, or it is of another type, such
            as a decoded image.
    """
    if isinstance(cell, Mapping):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if cell is None:
        raise ImageError("null: there is no image")
    if isinstance(cell, (str, os.PathLike)):
        content = read_file(os.fspath(cell), _BYTES_PER_PIXEL * max_pixels + _METADATA_BYTES)
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


def encode(pixels: npt.NDArray[Any] | Image.Image, file_format: str, **options: Any) -> bytes:
    """Encode an image as the bytes of a file.

    Args:
        pixels: RGB, uint8 `(H, W, 3)`; class ids, uint8 or uint16 `(H, W)`; or a Pillow image.
        file_format: Pillow's name of the format, such as "PNG".
        options: further arguments of Pillow's `Image.save`.
    """
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def open_image(cell: Any, max_pixels: int) -> Image.Image:
    """Return the Pillow image of a cell. Its size is checked, and its pixels are not decoded yet.

    Raises:
        ImageError: as for `encoded_bytes`; or the file is not an image, is damaged, or has more than `max_pixels`.
    """
    if isinstance(cell, Image.Image):
        image = cell
    else:
        content = encoded_bytes(cell, max_pixels)
        with as_image_error("decode the image"):
            image = _open_without_limit(content)
    if image.width == 0 or image.height == 0:
        raise ImageError(f"empty: {image.width} x {image.height} pixels")
    check_size(image.width, image.height, max_pixels)
    tags: Any = getattr(image, "tag_v2", {})
    width, height = tags.get(_TILE_WIDTH_TAG), tags.get(_TILE_LENGTH_TAG)
    if isinstance(width, int) and isinstance(height, int) and width * height > max(max_pixels, _TILE_PIXELS):
        raise ImageError(f"too large: the tiles of this TIFF file have {width} x {height} pixels")
    return image


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise an `ImageError` if an image has more than `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(
            f"too large: {width} x {height} pixels, above the limit of {max_pixels}; if you trust the image and have "
            "the memory, raise the limit with max_pixels= (--max-pixels)"
        )


def _open_without_limit(content: bytes) -> Image.Image:
    """Open an encoded image as `PIL.Image.open` does, but without its check of the size.

    That check uses a limit that is global to the process, and warns at half of it. `check_size` replaces it.
    """
    if heif.is_heif(content):
        return heif.open_heif(content)
    if content.startswith(PNG_MAGIC):
        content = without_text(content)
    is_tiff = content.startswith(tiff.MAGICS)
    original, content = content, tiff.readable(content) if is_tiff else content
    for name in _formats():
        factory, accept = Image.OPEN[name]
        accepted = accept(content[:16]) if accept else True
        if accepted and not isinstance(accepted, str):  # a string is the reason for a refusal
            try:
                image = factory(io.BytesIO(content), "")
                if is_tiff:
                    tiff.correct_tiles(image)
                return image
            except (SyntaxError, IndexError, TypeError, struct.error):  # not this format; try the others
                continue
    if is_tiff:
        raise ImageError(tiff.refusal(original))
    known = (*_formats(), *(("HEIF",) if heif.INSTALLED else ()))
    raise ImageError(f"not an image in a known format ({', '.join(known)})")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of `_FORMATS` that the installed Pillow supports."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
