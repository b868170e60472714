"""Lossy formats: files whose pixels are not those that were saved, so that they cannot hold class ids."""

from __future__ import annotations

import struct
from typing import Any

from PIL import Image

_LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "AVIF": "AVIF", "HEIF": "HEIF", "JPEG2000": "JPEG 2000"}

# The compressions of TIFF files that are lossy as a rule, by the value of their tag.
_COMPRESSION_TAG = 259
_COMPRESSIONS = {
    **dict.fromkeys((6, 7, 34892), "JPEG"),
    **dict.fromkeys((33003, 33005, 34712), "JPEG 2000"),
    50001: "WebP",
    50002: "JPEG XL",
}


def lossy_format(image: Image.Image, content: Any) -> str | None:
    """Return the lossy format that an image was stored in, for people to read; None if none is known.

    Args:
        image: as `Image.open` returns it.
        content: the bytes of its file. Without them, a WebP image does not count as lossy.
    """
    if image.format == "WEBP":
        return "lossy WebP" if isinstance(content, bytes) and _is_lossy_webp(content) else None
    if image.format == "TIFF":
        compression = getattr(image, "tag_v2", {}).get(_COMPRESSION_TAG)
        return f"{_COMPRESSIONS[compression]} in TIFF" if compression in _COMPRESSIONS else None
    return _LOSSY.get(image.format or "")


def _is_lossy_webp(content: bytes) -> bool:
    """Return whether the first frame of a WebP file is a VP8 one. VP8L is the lossless coding."""
    position = 12
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        if name in (b"VP8 ", b"VP8L"):
            return bool(name == b"VP8 ")
        position += 24 if name == b"ANMF" else 8 + size + size % 2  # the frame's own chunks follow its header
    return False
