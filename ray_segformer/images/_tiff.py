"""TIFF files that Pillow misreads or does not read: bands without a meaning, and what to say about the others."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import PIL

from ray_segformer.images._errors import ImageError

_BIG_BIG_ENDIAN = b"MM\0+"
MAGICS = (b"II*\0", b"MM\0*", b"II+\0", _BIG_BIG_ENDIAN)

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 259, 262, 277, 284, 338, 339
_MISSING, _MIN_IS_WHITE, _MIN_IS_BLACK, _RGB = -1, 0, 1, 2
_PHOTOMETRICS = {
    _MISSING: "missing",
    _MIN_IS_WHITE: "MinIsWhite",
    _MIN_IS_BLACK: "MinIsBlack",
    _RGB: "RGB",
    3: "palette",
    5: "CMYK",
}
_ALPHAS = ((1,), (2,))
_KINDS = {1: "uint", 2: "int", 3: "float", 5: "complex int", 6: "complex"}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # struct's characters of TIFF's types
_MOST_TAGS, _MOST_VALUES = 4096, 64


@dataclass(frozen=True)
class _Directory:
    """The tags of the first image of a file: type, number of values, and the bytes of the values or their offset."""

    content: bytes
    order: str
    big: bool
    tags: dict[int, tuple[int, int, bytes]]

    @classmethod
    def of(cls, content: bytes) -> _Directory:
        """Read the directory. Raises a `struct.error` or `KeyError` if it is damaged."""
        order = {b"II": "<", b"MM": ">"}[content[:2]]
        big = content[2:4] in (b"+\0", b"\0+")
        (offset,) = struct.unpack_from(f"{order}Q", content, 8) if big else struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", content, offset)
        entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
        offset += 8 if big else 2
        entries = (entry.unpack_from(content, offset + entry.size * i) for i in range(min(count, _MOST_TAGS)))
        return cls(content, order, big, {tag: (kind, number, value) for tag, kind, number, value in entries})

    def get(self, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return the first values of a tag of whole numbers."""
        if tag not in self.tags:
            return default
        kind, number, value = self.tags[tag]
        values = struct.Struct(f"{self.order}{min(number, _MOST_VALUES)}{_INTEGERS[kind]}")
        if struct.calcsize(_INTEGERS[kind]) * number <= len(value):
            return values.unpack_from(value)
        (offset,) = struct.unpack(f"{self.order}{'Q' if self.big else 'I'}", value)
        return values.unpack_from(self.content, offset)

    def as_rgb(self) -> bytes:
        """Return the file with a new directory at its end, which calls the bands red, green and blue."""
        value = struct.pack(f"{self.order}H", _RGB).ljust(8 if self.big else 4, b"\0")
        tags = {**self.tags, _PHOTOMETRIC: (3, 1, value)}
        tags.pop(_EXTRA, None)
        entry = struct.Struct(f"{self.order}HHQ8s" if self.big else f"{self.order}HHI4s")
        body = self.content + b"\0" * (len(self.content) % 2)
        start = struct.pack(f"{self.order}{'Q' if self.big else 'I'}", len(body))
        head = body[:8] + start if self.big else body[:4] + start
        count = struct.pack(f"{self.order}{'Q' if self.big else 'H'}", len(tags))
        entries = [entry.pack(tag, *tags[tag]) for tag in sorted(tags)]
        return b"".join([head, body[len(head) :], count, *entries, bytes(len(start))])


def readable(content: bytes) -> bytes:
    """Return a TIFF file as Pillow reads it right: three bands without a meaning (MinIsBlack) as RGB.

    Satellites' tools write bands so. Pillow refuses some of these files, and takes the first band of others for a grey
    image.

    Args:
        content: a file that starts with one of `MAGICS`. A damaged one is returned as it is, for Pillow to refuse.

    Raises:
        ImageError: the bands are no image of 8 or 16 bits in grey, with or without alpha, or RGB.
    """
    try:
        directory = _Directory.of(content)
        samples, bits, formats = _organization(directory)
        photometric, extra = directory.get(_PHOTOMETRIC, (_MISSING,))[0], directory.get(_EXTRA, ())
    except (struct.error, KeyError, IndexError, OverflowError):
        return content
    unreadable = content.startswith(_BIG_BIG_ENDIAN) or (formats == {2} and bits == {8})  # Pillow takes -1 for 255
    nameless = (
        photometric == _MIN_IS_BLACK and samples == 3 and not any(extra) and formats == {1} and bits in ({8}, {16})
    )
    bands = not nameless and photometric <= _MIN_IS_BLACK and samples > 1 and not (samples == 2 and extra in _ALPHAS)
    if bands or unreadable:
        raise ImageError(refusal(content))
    return directory.as_rgb() if nameless else content


EXPECTED = "expected one band, or three as RGB, of uint8 or uint16"
"""What `refusal` says of bands. What follows in its text is for photos."""


def refusal(content: bytes) -> str:
    """Return why a TIFF file is refused: what it is, and what to do."""
    try:
        directory = _Directory.of(content)
        samples, bits, formats = _organization(directory)
        photometric, compression = directory.get(_PHOTOMETRIC, (_MISSING,))[0], directory.get(_COMPRESSION, (1,))[0]
    except (struct.error, KeyError, IndexError, OverflowError):
        return "cannot decode: a TIFF file without a readable directory of tags; it may be damaged"
    if content.startswith(_BIG_BIG_ENDIAN):
        return "cannot decode: a big-endian BigTIFF, which Pillow does not read; convert it by `gdal_translate IN OUT`"
    kinds = {f"{_KINDS.get(kind, 'unknown type ')}{size}" for kind in formats for size in bits}
    details = [f"photometric interpretation {_PHOTOMETRICS.get(photometric, photometric)}"]
    details += [f"compression {compression}"] if compression != 1 else []
    return (
        f"wrong pixels: a TIFF of {samples} band{'s' if samples > 1 else ''} of {' and '.join(sorted(kinds))} "
        f"({', '.join(details)}); {EXPECTED}; read it as a scene, with "
        'pip install "ray_segformer[geo]" and --bands; or convert it, for example by '
        f"`gdal_translate {'-b 1 -b 2 -b 3' if samples > 2 else '-b 1'} -ot Byte -scale IN OUT` with the bands to take"
    )


def correct_tiles(image: Any) -> None:
    """Change how Pillow is to decode three kinds of files. It makes wrong pixels of the first two.

    * Compressed signed integers in big-endian order: Pillow swaps the bytes that libtiff has swapped already.
    * 16 bits in separate planes: Pillow's own decoder takes their bytes for 8 bits, so libtiff decodes them.
    * The same, compressed, with a fourth band that has no meaning: Pillow before 12.3 expects the bands together.

    Args:
        image: a `TiffImageFile` that is not decoded yet.
    """
    tags = image.tag_v2
    if image.tile and image.tile[0][0] == "libtiff":
        raw_mode = str(image.tile[0][3][0]).replace("BS", "NS")
        if tags.get(_PLANAR) == 2 and image.mode == "RGB":
            raw_mode = raw_mode.replace("RGBX;16", "RGB;16")
        image.tile = [_tile_like(each, (*each[:3], (raw_mode, *each[3][1:]))) for each in image.tile]
        return
    if tags.get(_PLANAR) != 2 or tags.get(_COMPRESSION, 1) != 1 or max(tags.get(_BITS, (1,))) <= 8 or not image.tile:
        return
    if image.mode in ("RGB", "RGBA", "CMYK"):
        image.use_load_libtiff = True
        compression = () if int(PIL.__version__.split(".")[0]) >= 13 else ("raw",)  # older versions ask for it
        tile = ("libtiff", (0, 0, *image.size), 0, (f"{image.mode};16N", *compression, False, tags.offset))
        image.tile = [_tile_like(image.tile[0], tile)]


def _tile_like(example: Any, values: tuple[Any, ...]) -> Any:
    """Return a tile of the type of another one: a named tuple in newer versions of Pillow."""
    return getattr(type(example), "_make", tuple)(values)


def _organization(directory: _Directory) -> tuple[int, set[int], set[int]]:
    """Return the number of bands, and the numbers of bits and the formats of samples that occur."""
    samples = directory.get(_SAMPLES, (1,))[0]
    return samples, set(directory.get(_BITS, (1,))), set(directory.get(_FORMAT, (1,)))
