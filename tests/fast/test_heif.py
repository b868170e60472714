"""HEIC, the photos of phones: with `pillow-heif` as Pillow reads them by it, and without a word on how to read them."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps
from reference import encode, picture

from ray_segformer import ImageError
from ray_segformer.images import SUFFIXES, to_class_ids, to_rgb

pillow_heif = pytest.importorskip("pillow_heif")

RGB = picture(96, 130)


def heic(image: Image.Image, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, exif=exif.tobytes(), quality=-1, chroma=444, **options)
    return buffer.getvalue()


def reference(content: bytes) -> np.ndarray:
    """What `pillow-heif` decodes, without this package and without its plugin for Pillow."""
    file = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=True)
    pillow_heif.set_orientation(file.info)
    return np.asarray(ImageOps.exif_transpose(file.to_pillow()).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_images(mode):
    content = heic(Image.fromarray(RGB).convert(mode))
    result = to_rgb(content)
    np.testing.assert_array_equal(result, reference(content))
    expected = np.asarray(Image.fromarray(RGB).convert(mode).convert("RGB"))
    assert np.abs(result.astype(int) - expected).max() <= 3  # lossless but for the conversion of colours


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation):
    """The file holds it as EXIF and as a transformation that the decoder applies: it is to be applied once."""
    content = heic(Image.fromarray(RGB), orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = to_rgb(encode(RGB, exif=exif))
    result = to_rgb(content)
    np.testing.assert_array_equal(result, reference(content))
    assert result.shape == turned.shape and np.abs(result.astype(int) - turned).max() <= 3


def test_ten_bits():
    deep = (RGB.astype(np.uint16) << 8) | RGB
    buffer = io.BytesIO()
    pillow_heif.encode("RGB;16", (130, 96), deep.tobytes(), buffer, quality=-1, chroma=444)
    result = to_rgb(buffer.getvalue())
    np.testing.assert_array_equal(result, reference(buffer.getvalue()))
    assert np.abs(result.astype(int) - RGB).max() <= 3


def test_paths_and_suffixes(tmp_path):
    assert {".heic", ".heif", ".hif"} <= SUFFIXES
    (tmp_path / "a.heic").write_bytes(heic(Image.fromarray(RGB)))
    np.testing.assert_array_equal(to_rgb(tmp_path / "a.heic"), reference((tmp_path / "a.heic").read_bytes()))


def test_the_container_of_avif_is_avif():
    content = bytearray(encode(RGB, "AVIF"))
    result = to_rgb(bytes(content))
    content[8:12] = b"mif1"  # a major brand that both may have
    np.testing.assert_array_equal(to_rgb(bytes(content)), result)
    content = bytearray(heic(Image.fromarray(RGB)))
    content[8:12] = b"mif1"
    np.testing.assert_array_equal(to_rgb(bytes(content)), reference(bytes(content)))


def test_too_large_by_its_header():
    content = heic(Image.fromarray(RGB))
    with pytest.raises(ImageError, match=r"^too large: 130 x 96 pixels"):
        to_rgb(content, max_pixels=130 * 96 - 1)
    assert to_rgb(content, max_pixels=130 * 96).shape == RGB.shape


def test_a_header_that_lies_about_the_size():
    content = bytearray(heic(Image.new("RGB", (600, 400))))
    size = content.index(b"ispe") + 8
    content[size : size + 8] = struct.pack(">II", 30, 20)
    with pytest.raises(ImageError, match=r"^cannot decode.*600x400"):
        to_rgb(bytes(content), max_pixels=10_000)


def test_damaged():
    content = heic(Image.fromarray(RGB))
    for end in (12, 30, 200, len(content) // 2):
        with pytest.raises(ImageError, match=r"^cannot decode|^not an image"):
            to_rgb(content[:end])


def test_class_ids_do_not_survive():
    with pytest.raises(ImageError, match="do not survive HEIF"):
        to_class_ids(heic(Image.fromarray(RGB[..., 0])))


@pytest.mark.slow
def test_pillow_itself_is_left_alone():
    """Nothing is registered: what else runs in the process opens the files that it opened before."""
    program = (
        "import sys; from PIL import Image; from ray_segformer.images import to_rgb;"
        "to_rgb(sys.stdin.buffer.read()); Image.init(); print('HEIF' in Image.OPEN)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], input=heic(Image.fromarray(RGB)), capture_output=True, check=True
    )
    assert run.stdout.strip() == b"False"


def test_without_the_extra_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['pillow_heif'] = None\n"  # as where it is not installed
        "from ray_segformer.images import SUFFIXES, ImageError, to_rgb\n"
        "print(sorted({'.heic', '.heif', '.hif'} & SUFFIXES))\n"
        "try: to_rgb(sys.stdin.buffer.read())\n"
        "except ImageError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=heic(Image.fromarray(RGB)),
        capture_output=True,
        check=True,
        env=os.environ,
    )
    suffixes, error = run.stdout.decode().splitlines()
    assert suffixes == "[]" and error.startswith("cannot decode: HEIC")
    assert "pip install 'ray_segformer[heif]'" in error
