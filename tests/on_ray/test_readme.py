"""README's Python, on the photos that people have."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from reference import picture

from ray_segformer.cli import main

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A photo that is to be turned, one in a palette, one in inks, and one in grey with alpha."""
    folder = tmp_path_factory.mktemp("photos")
    rgb = Image.fromarray(picture(50, 70, 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb.save(folder / "turned.jpg", exif=turned)
    rgb.quantize(16).save(folder / "palette.png")
    rgb.convert("CMYK").save(folder / "inks.jpg")
    rgb.convert("LA").save(folder / "grey.png")
    return folder


def test_the_first_example_gives_the_masks_of_the_command(ray_session, photos, small_dir, small, tmp_path, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    code = next(block for block in blocks if "read_images" in block)
    for theirs, ours in (
        ('"nvidia/segformer-b0-finetuned-ade-512-512"', repr(str(small_dir))),
        ('"photos/"', repr(str(photos))),
        ("batch_size=16", "batch_size=16, max_scoring_workers=1"),
    ):
        assert code.count(theirs) == 1
        code = code.replace(theirs, ours)
    names: dict = {}
    exec(code, names)
    printed = capsys.readouterr().out
    masks = {row["path"]: row["segmentation"] for row in names["masks"].take_all()}
    assert sorted(masks) == sorted(str(photo) for photo in photos.iterdir())

    assert main(["predict", str(photos), str(tmp_path / "out"), "--model", str(small_dir), "--format", "png"]) == 0
    for photo in photos.iterdir():
        with Image.open(tmp_path / "out" / "masks" / f"{photo.stem}.png") as mask:
            assert np.array_equal(masks[str(photo)], np.asarray(mask))
        with Image.open(photo) as image:
            expected = small.mask(ImageOps.exif_transpose(image).convert("RGB"))
        assert expected.shape == ((70, 50) if photo.stem == "turned" else (50, 70))
        assert (masks[str(photo)] == expected).mean() >= 0.999
        assert f"{photo} {expected.shape}" in printed
