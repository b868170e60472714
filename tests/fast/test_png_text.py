"""PNG files with more text, or a larger colour profile, than Pillow reads: their pixels are sound."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from reference import decode, encode, picture

from ray_segformer import ImageError
from ray_segformer.images import to_class_ids, to_rgb

RGB = picture(30, 40)
LARGE = 3 * PngImagePlugin.MAX_TEXT_CHUNK + 5
XMP = b'<rdf:Description tiff:Orientation="6"/>'


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(*chunks: bytes, late: bool = False, content: bytes | None = None) -> bytes:
    """A PNG file with further chunks, before or after its pixels."""
    content = encode(RGB) if content is None else content
    place = content.index(b"IEND") - 4 if late else content.index(b"IDAT") - 4
    return content[:place] + b"".join(chunks) + content[place:]


def text(size: int, key: bytes = b"Comment") -> bytes:
    return chunk(b"zTXt", key + b"\0\0" + zlib.compress(bytes(size)))


CHUNKS = {
    "zTXt": [text(LARGE)],
    "iTXt": [chunk(b"iTXt", b"Comment\0\1\0en\0\0" + zlib.compress(b"a" * LARGE))],
    "iCCP": [chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(LARGE)))],
    "many": [text(PngImagePlugin.MAX_TEXT_CHUNK)] * 70,
    "long": [chunk(b"tEXt", b"Comment\0" + b"a" * (PngImagePlugin.MAX_TEXT_MEMORY + 9))],
}


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize("name", CHUNKS)
def test_pixels_beside_large_texts(name, late):
    content = with_chunks(*CHUNKS[name], late=late)
    if name != "iCCP" or not late:
        with pytest.raises(ValueError, match=r"Decompressed data too large|Too much memory used"):
            decode(content).load()  # what Pillow says
    np.testing.assert_array_equal(to_rgb(content), RGB)
    annotation = with_chunks(*CHUNKS[name], late=late, content=encode(RGB[..., 0]))
    np.testing.assert_array_equal(to_class_ids(annotation), RGB[..., 0])


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


RAW_PROFILE = b"\nexif\n%8d\n" % len(exif(6)) + exif(6).hex().encode()
TURNED = np.rot90(RGB, -1)


@pytest.mark.parametrize("late", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize(
    "orientation",
    [
        chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE)),
        chunk(b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    ],
    ids=["eXIf", "zTXt", "tEXt", "iTXt", "compressed iTXt"],
)
def test_orientation_is_honoured(orientation, late):
    plain = with_chunks(orientation, late=late)
    content = with_chunks(*CHUNKS["zTXt"], *CHUNKS["iCCP"], content=plain)
    np.testing.assert_array_equal(to_rgb(content), np.asarray(ImageOps.exif_transpose(decode(plain))))
    if not late or b"eXIf" in orientation or b"Raw" in orientation:
        np.testing.assert_array_equal(to_rgb(content), TURNED)


def test_orientation_in_a_large_text():
    padded = XMP + b" " * LARGE
    content = with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(padded)))
    np.testing.assert_array_equal(to_rgb(content), TURNED)


def test_what_changes_pixels_stays():
    palette = Image.fromarray(RGB).quantize(7)
    content = with_chunks(*CHUNKS["zTXt"], content=encode(palette, transparency=3))
    np.testing.assert_array_equal(to_rgb(content), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(to_class_ids(content), np.asarray(palette))


def test_damaged_texts():
    damaged = chunk(b"zTXt", b"Raw profile type exif\0\0no zlib")
    np.testing.assert_array_equal(to_rgb(with_chunks(damaged, *CHUNKS["iCCP"])), RGB)
    content = with_chunks(*CHUNKS["iTXt"])
    for end in (9, 20, 60, len(content) // 2):
        with pytest.raises(ImageError):
            to_rgb(content[:end])


BOMB = """
import resource, sys
from ray_segformer import ImageError
from ray_segformer.images import to_rgb
content = sys.stdin.buffer.read()
to_rgb({small!r})
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    to_rgb(content)
except ImageError as error:
    print(error, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""


@pytest.mark.slow
@pytest.mark.parametrize("key", [b"Comment", b"Raw profile type exif"])
def test_texts_that_would_take_all_memory(key):
    """20 texts of 256 MiB each, in a file of 5 MB: decompression stays bounded, whatever the texts are."""
    packed = zlib.compress(bytes(2**28), 9)
    bomb = with_chunks(*[chunk(b"zTXt", key + b"\0\0" + packed)] * 20)
    run = subprocess.run(
        [sys.executable, "-c", BOMB.format(small=encode(RGB))], input=bomb, capture_output=True, check=True
    )
    kibibytes = int(run.stdout) * (1 if sys.platform == "linux" else 1 / 1024)
    assert kibibytes < 150 * 1024, f"{resource.getpagesize()} {run.stderr.decode()}"
