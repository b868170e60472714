"""Image cells: every kind a column may hold, and every kind of image file."""

from __future__ import annotations

import io
import resource
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from reference import decode, encode, objects, picture

from ray_segformer import ImageError
from ray_segformer.images import MAX_PIXELS, SUFFIXES, cells, describe, object_array, to_class_ids, to_rgb

RGB = picture()
GREY = RGB[..., 0]
ALPHA = np.arange(RGB.shape[0] * RGB.shape[1], dtype=np.uint8).reshape(GREY.shape)
# Of 16 bits: the high byte is GREY, the low byte is noise that must not round it up.
DEEP = (GREY.astype(np.uint16) << 8) | np.uint16(0xFF)
GREY_AS_RGB = np.stack([GREY] * 3, axis=-1)


def assert_rgb(result: np.ndarray, expected: np.ndarray) -> None:
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


# -- cells ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
def test_bytes_of_lossless_files(file_format):
    assert_rgb(to_rgb(encode(RGB, file_format)), RGB)


def test_bytes_of_lossless_webp():
    assert_rgb(to_rgb(encode(RGB, "WEBP", lossless=True)), RGB)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF", "JPEG2000", "AVIF"])
def test_bytes_of_lossy_files(file_format):
    data = encode(RGB, file_format)
    result = to_rgb(data)
    assert_rgb(result, np.asarray(decode(data).convert("RGB")))
    assert np.abs(result.astype(int) - RGB).mean() < 20  # the picture, and not another


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_of_any_type(wrap):
    assert_rgb(to_rgb(wrap(encode(RGB))), RGB)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY_AS_RGB),
        (GREY[..., None], GREY_AS_RGB),
        (RGB, RGB),
        (np.dstack([RGB, ALPHA]), RGB),
        (RGB.astype(np.int64), RGB),
        (RGB.astype(np.int8) & 0x7F, RGB & 0x7F),
        (GREY > 60, (GREY_AS_RGB > 60) * np.uint8(255)),
        ((GREY > 60)[..., None], (GREY_AS_RGB > 60) * np.uint8(255)),
        (DEEP, GREY_AS_RGB),
        (DEEP.astype(">u2"), GREY_AS_RGB),
        (np.dstack([RGB.astype(np.uint16) << 8, DEEP]), RGB),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (RGB.astype(np.float32), RGB),
        (GREY.astype(np.float64), GREY_AS_RGB),
    ],
    ids=[
        *("grey", "grey 1", "rgb", "rgba", "int64", "int8", "bool", "bool 1"),
        *("uint16", "big-endian uint16", "uint16 rgba", "strided"),
        *("whole float32", "whole float64"),
    ],
)
def test_arrays(array, expected):
    before = array.copy()
    array.flags.writeable = False
    assert_rgb(to_rgb(array), expected)
    np.testing.assert_array_equal(array, before)


def test_pil_image_is_left_as_it_was():
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6
    assert_rgb(to_rgb(image), np.rot90(RGB, -1))
    assert image.getexif()[0x0112] == 6
    np.testing.assert_array_equal(np.asarray(image), RGB)


def test_paths_and_uris(tmp_path):
    path = tmp_path / "a picture.png"
    path.write_bytes(encode(RGB))
    for cell in (path, str(path), np.str_(path), path.as_uri(), f"file://{tmp_path}/a%20picture.png"):
        assert_rgb(to_rgb(cell), RGB)


def test_structs(tmp_path):
    path = tmp_path / "grey.png"
    path.write_bytes(encode(GREY))
    data = encode(RGB)
    assert_rgb(to_rgb({"bytes": data, "path": None}), RGB)
    assert_rgb(to_rgb({"bytes": data}), RGB)
    assert_rgb(to_rgb({"bytes": None, "path": str(path)}), GREY_AS_RGB)
    assert_rgb(to_rgb({"path": str(path)}), GREY_AS_RGB)
    assert_rgb(to_rgb({"bytes": data, "path": "never/read.png"}), RGB)
    assert_rgb(to_rgb({"bytes": data, "path": str(path)}), RGB)  # bytes before path


# -- kinds of images --------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM"])
def test_greyscale_is_repeated(file_format):
    assert_rgb(to_rgb(encode(GREY, file_format)), GREY_AS_RGB)


def palette_image() -> tuple[Image.Image, np.ndarray]:
    """A palette image, and its colours looked up by hand."""
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY).convert("P")
    image.putdata(GREY.ravel().tolist())
    image.putpalette(palette.ravel().tolist())
    return image, palette[GREY]


@pytest.mark.parametrize("transparency", [None, 0, int(GREY[0, 0]), bytes(range(256))], ids=["none", "0", "one", "all"])
@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_palette(transparency, as_file):
    image, colours = palette_image()
    if transparency is not None:
        image.info["transparency"] = transparency
    assert_rgb(to_rgb(encode(image) if as_file else image), colours)


def test_palette_of_few_colours():
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert_rgb(to_rgb(encode(image, bits=1)), np.full((2, 4, 3), (40, 50, 60)))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped(file_format):
    rgba = np.dstack([RGB, ALPHA])  # some pixels are fully transparent, and keep their colour
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    assert_rgb(to_rgb(encode(rgba, file_format, **options)), RGB)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_grey_with_alpha(file_format):
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    assert_rgb(to_rgb(encode(image, file_format)), GREY_AS_RGB)


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [((0, 255, 255, 0), (255, 0, 0)), ((255, 0, 255, 0), (0, 255, 0)), ((0, 0, 0, 255), (0, 0, 0))],
    ids=["red", "green", "black"],
)
def test_cmyk_jpeg(cmyk, rgb):
    data = encode(Image.new("CMYK", (16, 8), cmyk), "JPEG")
    result = to_rgb(data)
    assert_rgb(result, np.asarray(decode(data).convert("RGB")))
    assert np.abs(result.astype(int) - rgb).max() < 8  # inks are not inverted


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_give_the_high_byte(file_format):
    data = encode(DEEP, file_format)
    assert decode(data).mode.startswith("I")  # Pillow decodes all 16 bits
    assert_rgb(to_rgb(data), GREY_AS_RGB)
    assert_rgb(to_rgb(decode(data)), GREY_AS_RGB)


def test_sixteen_bits_big_endian():
    image = Image.fromarray(DEEP.astype(">u2"))
    assert image.mode == "I;16B"
    assert_rgb(to_rgb(image), GREY_AS_RGB)


def test_mode_i_has_16_bits_and_without_a_file_a_value_that_says_so():
    deep, dark = Image.fromarray(DEEP.astype(np.int32)), Image.fromarray(GREY.astype(np.int32))
    assert deep.mode == dark.mode == "I"
    assert_rgb(to_rgb(deep), GREY_AS_RGB)
    assert_rgb(to_rgb(encode(dark, "PPM")), 0 * GREY_AS_RGB)
    assert_rgb(to_rgb(Image.new("I", (4, 3))), np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(ImageError, match=rf"\[{GREY.min()}, {GREY.max()}\] may have 8 bits or 16; make it \"L\" if"):
        to_rgb(dark)
    assert_rgb(to_rgb(Image.fromarray(np.uint8(dark))), GREY_AS_RGB)  # as the message says


def test_sixteen_bit_rgb_png():
    rows = (RGB.astype(">u2") << 8) | 0x7F
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    assert_rgb(to_rgb(png(RGB.shape[1], RGB.shape[0], depth=16, colour=2, raw=raw)), RGB)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_one_bit(file_format):
    bits = GREY > 60
    assert_rgb(to_rgb(encode(Image.fromarray(bits), file_format)), np.stack([bits] * 3, -1) * np.uint8(255))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
def test_exif_orientation(orientation, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, pixels = {
        "RGB": (Image.fromarray(RGB), RGB),
        "L": (Image.fromarray(GREY), GREY_AS_RGB),
        "P": palette_image(),
        "I;16": (Image.fromarray(DEEP), GREY_AS_RGB),
    }[mode]
    upright = ImageOps.exif_transpose(decode(encode(pixels, exif=exif)))
    assert (upright.size == image.size) == (orientation < 5)
    assert np.array_equal(upright, pixels) == (orientation == 1)
    assert_rgb(to_rgb(encode(image, exif=exif)), np.asarray(upright))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "1"])
def test_large_images_are_converted_in_strips(mode, orientation, monkeypatch):
    monkeypatch.setitem(to_rgb.__globals__, "_STRIP_PIXELS", 3 * RGB.shape[1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(RGB).convert(mode), "TIFF", exif=exif)
    assert_rgb(to_rgb(content), np.asarray(ImageOps.exif_transpose(decode(content)).convert("RGB")))


def test_exif_orientation_of_a_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    data = encode(RGB, "JPEG", exif=exif)
    assert_rgb(to_rgb(data), np.rot90(np.asarray(decode(data)), -1))


def frames(file_format: str) -> bytes:
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    options = {"lossless": True} if file_format == "WEBP" else {}
    return encode(first, file_format, save_all=True, append_images=[second], duration=50, **options)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_first_frame_of_an_animation(file_format):
    data = frames(file_format)
    assert decode(data).n_frames == 2
    result = to_rgb(data)
    assert_rgb(result, np.asarray(decode(data).convert("RGB")))
    assert np.abs(result.astype(int) - RGB).mean() < 20


# -- what is refused --------------------------------------------------------------------------------


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, raw: bytes = b"") -> bytes:
    """A PNG file put together by hand, whose header need not tell the truth."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 10 10 rectfill\nshowpage\n%%EOF\n"
NAN = np.full((4, 4, 3), np.nan)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "null"),
        ({"bytes": None, "path": None}, "null"),
        ({}, "null"),
        (float("nan"), "float is no image cell; expected a PIL image"),
        (pd.NA, "NAType is no image cell; expected a PIL image"),
        (7, "int is no image cell; expected a PIL image"),
        ([[1, 2], [3, 4]], "list is no image cell; expected a PIL image"),
        (object(), "object is no image cell; expected a PIL image"),
        (b"", "0 bytes"),
        ({"bytes": b"", "path": None}, "0 bytes"),
        (b"just text, no picture", r"known format \(JPEG, "),
        (EPS, r"known format \(JPEG, "),
        (encode(RGB, "JPEG")[:300], "cannot decode"),
        (encode(picture(200, 300), "JPEG", quality=95)[:20000], "cannot decode.*truncated"),
        (encode(picture(200, 300))[:20000], "cannot decode"),
        (encode(picture(200, 300), "WEBP", lossless=True)[:20000], "cannot decode"),
        (encode(RGB, "TIFF")[:200], "cannot (open|decode)"),
        (NAN, r"uint8 values in \[0, 255\].*not float64.*astype"),
        (RGB + np.float32(0.5), r"uint8 values in \[0, 255\].*not float32.*astype"),
        (RGB - 1.0, r"uint8 values in \[0, 255\].*not float64.*astype"),
        ((RGB > 60) * 1.0, r"uint8 values in \[0, 255\].*not float64.*astype"),
        (RGB / np.float32(255), r"uint8 values in \[0, 255\].*not float32.*astype"),
        (RGB.astype(object), r"an array of Python objects"),
        (np.array([["a", "b"]]), "not <U1"),
        (np.zeros((4, 4, 3), complex), "not complex128"),
        (np.zeros((4, 4, 2), np.uint8), r"\(H, W, 1 \| 3 \| 4\), not \(4, 4, 2\)"),
        (np.zeros((3, 4, 5), np.uint8), r"not \(3, 4, 5\)"),
        (np.zeros(4, np.uint8), r"not \(4,\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"not \(2, 4, 4, 3\)"),
        (np.array(5, np.uint8), r"not \(\)"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.full((4, 4, 3), -1), r"values in \[0, 255\], not \[-1, -1\]"),
        (np.array([[0, 256]]), r"values in \[0, 255\], not \[0, 256\]"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), r"in \[70000, 70000\]; expected 8 or 16 bits"),
        (Image.fromarray(np.full((4, 4), -5, np.int32)), r"in \[-5, -5\]; expected 8 or 16 bits"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "32-bit float.*expected 8 or 16 bits"),
        (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "32-bit float.*expected 8 or 16 bits"),
        (Image.new("RGB", (0, 5)), "empty: 0 x 5"),
        ("s3//no/such/file.png", "cannot read the file"),
        ("nothing://to/see.png", "cannot read the file"),
        ({"bytes": None, "path": "no/such/file.png"}, "cannot read the file"),
    ],
)
def test_refused(cell, message):
    with pytest.raises(ImageError, match=message):
        to_rgb(cell)


def test_refused_files(tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not a photo")
    eps = tmp_path / "drawing.eps"
    eps.write_bytes(EPS)
    for path in (text, eps):
        with pytest.raises(ImageError, match="known format"):
            to_rgb(path)
    with pytest.raises(ImageError, match="cannot read the file"):
        to_rgb(tmp_path)  # a folder
    with pytest.raises(ImageError, match="cannot read the file"):
        to_rgb((tmp_path / "missing.png").as_uri())


def assert_refused_without_memory(cell, message: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (to_rgb, to_class_ids):
        with pytest.raises(ImageError, match=message):
            read(cell)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024  # in KiB; the pixels would take gigabytes


@pytest.mark.parametrize("side", [60000, 16001])
def test_too_large_by_its_header(side):
    grey = png(side, side, colour=0, raw=b"\0" * 1000)
    assert len(grey) < 200
    assert_refused_without_memory(grey, "too large")


@pytest.fixture
def pillow_without_limit():
    """Pillow as users set it up who trust their images."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    yield
    Image.MAX_IMAGE_PIXELS = limit


def test_own_limit_holds_where_pillows_is_lifted(pillow_without_limit):
    width = MAX_PIXELS // 2**10 + 1
    too_large = png(width, 2**10, colour=0)
    assert_refused_without_memory(too_large, rf"too large: {width} x 1024 pixels, above the limit of {MAX_PIXELS}")
    with pytest.raises(ImageError, match="too large"):
        to_rgb(decode(too_large))


def test_too_large_array():
    with pytest.raises(ImageError, match="too large"):
        to_rgb(np.broadcast_to(np.uint8(7), (MAX_PIXELS // 2**10 + 1, 2**10)))


# -- annotations ------------------------------------------------------------------------------------

IDS = ALPHA  # all values from 0 to 255
WIDE = IDS.astype(np.uint16) + 200


def palette_annotation() -> Image.Image:
    image = Image.fromarray(IDS)
    image.putpalette(np.random.default_rng(2).integers(0, 256, 768).tolist())
    assert image.mode == "P"
    return image


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (IDS, IDS),
        (IDS[..., None], IDS),
        (IDS.astype(np.int64), IDS),
        (IDS > 9, (IDS > 9).astype(np.uint8)),
        (WIDE, WIDE),
        (IDS.astype(np.uint16), IDS),
        (np.full((2, 2), 256, np.int32), np.full((2, 2), 256, np.uint16)),
        (Image.fromarray(IDS), IDS),
        (encode(IDS), IDS),
        (palette_annotation(), IDS),
        (encode(palette_annotation()), IDS),
        (encode(palette_annotation(), "GIF"), IDS),
        (encode(Image.fromarray(IDS > 9)), (IDS > 9).astype(np.uint8)),
        (encode(WIDE), WIDE),
        (encode(WIDE, "TIFF"), WIDE),
        (encode(IDS.astype(np.uint16)), IDS),
        ({"bytes": encode(IDS), "path": "x.png"}, IDS),
    ],
    ids=[
        *("array", "array 1", "int64", "bool", "uint16", "uint16 of small ids", "256", "L", "L file", "P", "P file"),
        *("P gif", "1 file", "I;16 file", "I;16 tiff", "I;16 file of small ids", "struct"),
    ],
)
def test_class_ids(cell, expected):
    result = to_class_ids(cell)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_class_ids_turn_with_their_image(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(to_class_ids(encode(GREY, exif=exif)), to_rgb(encode(GREY_AS_RGB, exif=exif))[..., 0])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "null"),
        (np.zeros((3, 3, 5), np.uint8), r"not \(3, 3, 5\)"),
        (np.zeros((0, 3), np.uint8), r"not \(0, 3\)"),
        (np.zeros((3, 3)), "integer class ids, not float64"),
        (Image.fromarray(np.full((3, 3), 1.5, np.float32)), "integer class ids, not float32"),
        (Image.fromarray(np.full((3, 3), np.nan, np.float32)), "integer class ids, not float32"),
        (np.full((3, 3), -1), r"\[0, 65535\], but these are in \[-1, -1\]"),
        (np.full((3, 3), 65536), r"\[0, 65535\], but these are in \[65536, 65536\]"),
        (b"text", "known format"),
        (encode(picture(200, 300)[..., 0])[:9000], "cannot decode the annotation"),
    ],
)
def test_no_class_ids(cell, message):
    with pytest.raises(ImageError, match=message):
        to_class_ids(cell)


# -- columns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        [None, float("nan"), pd.NA, np.float64("nan"), "a.png"],
        objects(None, np.nan, pd.NA, np.float32("nan"), "a.png"),
        pd.Series([None, np.nan, pd.NA, None, "a.png"], dtype=object),
        pd.Series([None, None, None, None, "a.png"], dtype="string"),
        pd.Series([None, None, None, None, "a.png"]),
    ],
    ids=["list", "array", "object series", "string series", "default series"],
)
def test_missing_cells_come_as_none(column):
    assert list(cells(column)) == [None, None, None, None, "a.png"]


def test_object_array_does_not_stack():
    values = [RGB, RGB]
    array = object_array(values)
    assert array.shape == (2,) and array.dtype == object and array[1] is RGB
    assert object_array(iter([])).shape == (0,)


def test_describe(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(RGB))
    assert describe(path) == str(path) == describe(str(path)) == describe({"bytes": b"x", "path": str(path)})
    with Image.open(path) as image:
        assert describe(image) == str(path)
    for cell in (RGB, b"x", None, 3, {"bytes": b"x", "path": None}, Image.fromarray(RGB), decode(encode(RGB))):
        assert describe(cell) is None


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".heic", ".heif", ".hif"}))  # these: test_heif.py
def test_suffixes_are_of_formats_that_open(suffix):
    file_format = Image.registered_extensions()[suffix]
    assert to_rgb(encode(RGB, file_format)).shape == RGB.shape


def test_a_file_may_have_64_mib_of_other_things_than_pixels(tmp_path):
    content = encode(RGB)
    (tmp_path / "a.png").write_bytes(content + bytes(8 * RGB.size))  # after the end of the image
    assert_rgb(to_rgb(str(tmp_path / "a.png"), max_pixels=GREY.size), RGB)


def test_tiles_may_have_more_pixels_than_the_limit():
    """Even the only tile of a small image."""
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RGB, tile=(64, 64), photometric="rgb")
    assert_rgb(to_rgb(buffer.getvalue(), max_pixels=GREY.size), RGB)
