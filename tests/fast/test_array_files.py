"""Arrays beside the path of their file, as `ray.data.read_images(include_paths=True)` gives them.

Ray makes them by `np.asarray(Image.open(...))`, with `convert` if a mode is asked for: so do these tests.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from reference import encode, picture

from ray_segformer import ImageError
from ray_segformer.images import to_rgb
from ray_segformer.images._array_files import difference

RGB = picture(20, 30)
GREY = RGB[..., 0]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


DIFFERENT = {
    "turned.jpg": (encode(RGB, "JPEG", exif=exif(6)), "EXIF orientation, 6,"),
    "upside_down.png": (encode(RGB, exif=exif(3)), "EXIF orientation, 3,"),
    "turned.webp": (encode(RGB, "WEBP", exif=exif(5)), "EXIF orientation, 5,"),
    "palette.png": (encode(Image.fromarray(RGB).quantize(9)), "indices of a palette"),
    "palette.gif": (encode(Image.fromarray(RGB).quantize(9), "GIF"), "indices of a palette"),
    "inks.jpg": (encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "inks"),
    "alpha.png": (encode(Image.fromarray(RGB).convert("LA")), "grey and alpha"),
}
SAME = {
    "rgb.jpg": encode(RGB, "JPEG"),
    "upright.jpg": encode(RGB, "JPEG", exif=exif(1)),
    "rgba.png": encode(Image.fromarray(RGB).convert("RGBA")),
    "grey.png": encode(GREY),
    "deep.png": encode(GREY.astype(np.uint16) * 257),
    "bits.png": encode(Image.fromarray(GREY > 99)),
    "turned.tif": encode(RGB, "TIFF", tiffinfo={274: 8}),  # Pillow turns TIFF files when it decodes them
    "upside_down.tif": encode(RGB, "TIFF", tiffinfo={274: 3}),
    "rgb.bmp": encode(RGB, "BMP"),
}


@pytest.mark.parametrize("name", [*DIFFERENT, *SAME])
def test_what_the_header_tells_is_what_changes_the_image(tmp_path, name):
    """An array is different if, and only if, it gives another image than its file does."""
    path = tmp_path / name
    content, reason = DIFFERENT.get(name) or (SAME[name], None)
    path.write_bytes(content)
    with Image.open(path) as image:
        array = np.asarray(image)
    for spelling in (str(path), path.as_uri()):
        why = difference(array, spelling)
        assert (why is None) if reason is None else reason in why
    if array.shape[2:] == (2,):
        with pytest.raises(
            ImageError, match=r"not \(20, 30, 2\); it is probably grey with alpha.*datasets\.read_images"
        ):
            to_rgb(array)
    else:
        assert np.array_equal(to_rgb(array), to_rgb(path)) == (reason is None)


@pytest.mark.parametrize("name", ["palette.png", "inks.jpg", "alpha.png"])
def test_arrays_that_were_converted_are_the_same(tmp_path, name):
    """`ray.data.read_images(mode="RGB")`."""
    (tmp_path / name).write_bytes(DIFFERENT[name][0])
    with Image.open(tmp_path / name) as image:
        array = np.asarray(image.convert("RGB"))
    assert difference(array, str(tmp_path / name)) is None
    np.testing.assert_array_equal(to_rgb(array), to_rgb(tmp_path / name))


def test_arrays_that_were_turned_are_the_same(tmp_path):
    (tmp_path / "a.jpg").write_bytes(DIFFERENT["turned.jpg"][0])
    assert difference(to_rgb(tmp_path / "a.jpg"), str(tmp_path / "a.jpg")) is None


def test_sizes_and_depths(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(SAME["deep.png"])
    assert "(10, 30), and the file is (20, 30)" in difference(GREY[:10], str(path))
    with Image.open(path) as image:
        assert "8 bits" in difference(np.asarray(image.convert("L")), str(path))


def test_what_tells_nothing(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    paths = (
        "a.png",
        "s3://bucket/a.png",
        str(tmp_path),
        str(tmp_path / "text.png"),
        str(tmp_path / "none.png"),
        "/dev/zero",
    )
    for path in paths:
        assert difference(RGB, path) is None


PROGRAM = """
import sys, warnings
import numpy as np
from PIL import Image
from ray_segformer import SegformerPreprocessor
folder = sys.argv[1]
paths = np.array([f"{folder}/{name}" for name in sys.argv[2:]], object)
images = np.empty(len(paths), object)
for row, path in enumerate(paths):
    with Image.open(path) as image:
        images[row] = np.asarray(image)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        SegformerPreprocessor(32, on_error="keep").preprocess({"image": images, "path": paths}, threads=2)
for warning in caught:
    print(type(warning.message).__name__, warning.message.code, warning.message)
"""


@pytest.mark.slow
def test_it_is_said_once_for_each_process(tmp_path):
    files = {**{name: content for name, (content, _) in DIFFERENT.items()}, **SAME}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    def run(*names: str) -> list[str]:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), *names]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()

    assert run("rgb.jpg", "grey.png") == []
    (line,) = run("rgb.jpg", "turned.jpg", "palette.png")
    assert line.startswith(f"SegformerWarning array-differs-from-file {tmp_path}/turned.jpg: ")
    assert "EXIF orientation, 6," in line and "ray_segformer.datasets.read_images" in line
