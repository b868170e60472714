"""TIFF files of bands, as satellites' tools write them, against tifffile."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
from reference import picture

from ray_segformer import ImageError
from ray_segformer.images import LabelFormat, to_class_ids, to_rgb

tifffile = pytest.importorskip("tifffile")

BANDS = np.random.default_rng(11).integers(0, 65536, (41, 57, 3), dtype=np.uint16)


def tiff(array: np.ndarray, planar: str | None = "contig", **options) -> bytes:
    """A file of bands `(H, W, N)`, and a check that tifffile reads back what was written."""
    buffer = io.BytesIO()
    stored = np.ascontiguousarray(np.moveaxis(array, -1, 0)) if planar == "separate" else array
    tifffile.imwrite(buffer, stored, planarconfig=planar, metadata=None, **options)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(buffer.getvalue())), stored)
    return buffer.getvalue()


LAYOUTS = list(itertools.product(("contig", "separate"), (None, "zlib"), (None, (16, 32)), ("<", ">"), (False, True)))


@pytest.mark.parametrize(("planar", "compression", "tile", "order", "big"), LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_three_bands_are_red_green_and_blue(planar, compression, tile, order, big, dtype):
    bands = (BANDS >> 8).astype(np.uint8) if dtype == np.uint8 else BANDS
    options = {"planar": planar, "compression": compression, "tile": tile, "byteorder": order, "bigtiff": big}
    for meaning in (
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "extrasamples": (0, 0)},  # as GDAL writes them
        {"photometric": "rgb"},
    ):
        content = tiff(bands, **options, **meaning)
        if order == ">" and big:
            with pytest.raises(ImageError, match=r"^cannot decode: a big-endian BigTIFF.*gdal_translate"):
                to_rgb(content)
        else:
            np.testing.assert_array_equal(to_rgb(content), BANDS >> 8)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_sixteen_bits_in_separate_planes_with_a_fourth(compression, extra):
    opaque = np.full((*BANDS.shape[:2], 1), 65535, np.uint16)  # so that alpha, multiplied in or not, changes nothing
    content = tiff(
        np.concatenate([BANDS, opaque], -1),
        "separate",
        photometric="rgb",
        extrasamples=(extra,),
        compression=compression,
    )
    np.testing.assert_array_equal(to_rgb(content), BANDS >> 8)


def test_orientation_of_bands():
    content = tiff(picture(20, 30), photometric="minisblack", extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_array_equal(to_rgb(content), np.rot90(picture(20, 30), -1))


def test_bands_of_class_ids():
    ids = np.random.default_rng(2).integers(0, 9, (13, 17), dtype=np.uint8)
    content = tiff(np.stack([ids] * 3, -1), photometric="minisblack")
    np.testing.assert_array_equal(LabelFormat().class_ids(content), ids)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "message"),
    [
        ((9, 7, 2), "u1", {"extrasamples": (0,)}, "2 bands of uint8"),
        ((9, 7, 2), "u1", {"extrasamples": (0,), "planar": "separate"}, "2 bands of uint8"),
        ((9, 7, 4), "u1", {}, "4 bands of uint8"),
        ((9, 7, 8), "u2", {}, "8 bands of uint16"),
        ((9, 7, 8), "u2", {"planar": "separate"}, "8 bands of uint16"),  # Pillow alone: a grey image of the first
        ((9, 7, 3), "u1", {"extrasamples": (0, 2)}, "3 bands of uint8"),
        ((9, 7, 13), "u2", {"compression": "zlib"}, "13 bands of uint16 .*compression 8"),
        ((9, 7, 3), "i2", {}, "3 bands of int16"),
        ((9, 7, 3), "f4", {}, "3 bands of float32"),
        ((9, 7, 3), "f4", {"photometric": "rgb"}, "3 bands of float32 .*RGB"),
        ((9, 7, 3), "u4", {"photometric": "rgb"}, "3 bands of uint32 .*RGB"),
        ((9, 7, 3), "u1", {"photometric": "miniswhite"}, "3 bands of uint8 .*MinIsWhite"),
        ((9, 7), "f8", {"planar": None}, "1 band of float64"),
        ((9, 7), "i1", {"planar": None}, "1 band of int8"),
        ((9, 7), "c8", {"planar": None}, "1 band of complex64"),
    ],
)
def test_other_bands_are_refused_by_what_they_are(shape, dtype, options, message):
    content = tiff(np.ones(shape, dtype), **{"photometric": "minisblack", **options})
    with pytest.raises(ImageError, match=f"^wrong pixels: a TIFF of {message}.*gdal_translate"):
        to_rgb(content)
    with pytest.raises(ImageError, match=f"^wrong pixels: a TIFF of {message}.*; class ids are in .* 255$") as caught:
        to_class_ids(content)
    assert "-scale" not in str(caught.value)  # which would change ids


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("<i2", "signed 16-bit"),
        (">i2", "signed 16-bit"),
        ("<i4", "32-bit"),
        (">i4", "32-bit"),
        ("<u4", "32-bit"),
    ],
)
def test_integers_without_a_range_are_no_pixels_but_may_be_class_ids(dtype, kind, compression):
    ids = np.random.default_rng(3).integers(0, 9, (13, 17)).astype(dtype)
    content = tiff(ids, photometric="minisblack", compression=compression, byteorder=dtype[0], planar=None)
    with pytest.raises(ImageError, match=f"^wrong pixels: {kind} integers .*--range"):
        to_rgb(content)
    np.testing.assert_array_equal(LabelFormat().class_ids(content), ids)


def test_white_is_0_in_a_file_that_says_so():
    for dtype in ("uint8", "uint16"):
        pixels = np.random.default_rng(4).integers(0, np.iinfo(dtype).max, (13, 17)).astype(dtype)
        grey = np.invert(pixels) >> (8 * pixels.itemsize - 8)
        content = tiff(pixels, photometric="miniswhite", planar=None)
        np.testing.assert_array_equal(to_rgb(content), np.stack([grey] * 3, -1))


def test_twelve_bits_are_not_sixteen():
    """As cameras of microscopes write them. tifffile does not."""
    pixels = np.random.default_rng(5).integers(0, 4096, (13, 18))
    packed = bytes.fromhex("".join(f"{pixel:03x}" for pixel in pixels.ravel().tolist()))
    sizes = ((256, 18), (257, 13), (258, 12), (259, 1), (262, 1), (277, 1), (278, 13))
    tags = [*sizes[:5], (273, 8 + 2 + 9 * 12 + 4), *sizes[5:], (279, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + packed
    np.testing.assert_array_equal(to_rgb(content), np.stack([pixels >> 4] * 3, -1))
    np.testing.assert_array_equal(to_class_ids(content), pixels)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of tags
def test_damaged_directories_are_refused():
    content = tiff(BANDS, photometric="minisblack")
    for end in range(0, 300, 7):
        with pytest.raises(ImageError):
            to_rgb(content[: max(end, 1)])
    generator = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(content)
        for place in generator.integers(4, 300, 4):
            damaged[place] = generator.integers(256)
        try:
            assert to_rgb(bytes(damaged), max_pixels=10_000).shape[-1] == 3
        except ImageError:
            continue
