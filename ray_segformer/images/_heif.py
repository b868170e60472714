"""HEIC and HEIF files, the photos of phones: read by `pillow-heif`, where it is installed (the extra `heif`)."""

from __future__ import annotations

import importlib.util
import io
import struct

from PIL import Image

from ray_segformer.images._errors import ImageError

INSTALLED = importlib.util.find_spec("pillow_heif") is not None

SUFFIXES = (".heic", ".heif", ".hif")

_HEVC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_ANY_BRANDS = frozenset((b"mif1", b"msf1"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))


def is_heif(content: bytes) -> bool:
    """Return whether a file says that it is HEIF, and not AVIF, which uses the same container."""
    if content[4:8] != b"ftyp":
        return False
    (size,) = struct.unpack_from(">I", content)
    box = content[8 : min(size, 1024)]
    brands = {box[i : i + 4] for i in range(0, len(box), 4)}
    return bool(brands & _HEVC_BRANDS) or bool(brands & _ANY_BRANDS and not brands & _AVIF_BRANDS)


def open_heif(content: bytes) -> Image.Image:
    """Open a HEIF file. Its pixels are not decoded yet. Decoding turns it, as the file says.

    Raises:
        ImageError: `pillow-heif` is not installed, or the file is damaged.
    """
    if not INSTALLED:
        raise ImageError("cannot decode: HEIC and HEIF files need pillow-heif; pip install 'ray_segformer[heif]'")
    from pillow_heif import HeifImageFile  # Loading libheif takes time, which other images do without.

    try:
        image: Image.Image = HeifImageFile(io.BytesIO(content), "")  # type: ignore[no-untyped-call]
    except SyntaxError as error:
        raise ImageError(f"cannot decode: a damaged HEIF file: {error}") from error
    return image
