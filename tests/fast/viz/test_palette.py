"""The classes' colours."""

import json
import zlib

import numpy as np
import pytest

from ray_segformer.viz import class_palette, colorize, make_palette

# Some of the colours that MIT's benchmark publishes: the first ones, the last ones, and some between.
ADE20K = {
    "wall": (120, 120, 120),
    "building": (180, 120, 120),
    "sky": (6, 230, 230),
    "floor": (80, 50, 50),
    "tree": (4, 200, 3),
    "ceiling": (120, 120, 80),
    "road": (140, 140, 140),
    "bed": (204, 5, 255),
    "windowpane": (230, 230, 230),
    "person": (150, 5, 61),
    "car": (0, 102, 200),
    "mirror": (220, 220, 220),
    "sand": (160, 150, 20),
    "skyscraper": (140, 140, 140),
    "case": (0, 0, 255),
    "flower": (255, 0, 0),
    "computer": (0, 255, 173),
    "swivel chair": (10, 0, 255),
    "fountain": (8, 184, 170),
    "radiator": (255, 214, 0),
    "glass": (25, 194, 194),
    "clock": (102, 255, 0),
    "flag": (92, 0, 255),
}
ADE20K_CHECKSUM = 0xD7CD49A7  # of all 150 colours, from MMSegmentation's table


@pytest.fixture(params=["segformer-b0-ade-config", "segformer-b0-camvid"])
def ade20k(request, shared):
    """Return ADE20K's class names as two configurations spell them."""
    config = json.loads((shared / "models" / request.param / "config.json").read_text())
    return {int(class_id): name for class_id, name in config["id2label"].items()}


def spelt_otherwise():
    """Return 150 classes of which only those that are compared have ADE20K's names, spelled differently."""
    names = {0: "Wall", 1: "building;edifice", 2: "sky ", 4: "tree", 12: "person, individual", 149: "flag"}
    return {number: names.get(number, f"class {number}") for number in range(150)}


@pytest.mark.parametrize("num_classes", [1, 8, 150, 300])
def test_palette_tells_classes_apart(num_classes):
    palette = make_palette(num_classes)
    assert palette.shape == (num_classes, 3) and palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == num_classes
    steps = np.abs(np.diff(palette.astype(int), axis=0)).sum(axis=1)
    assert (steps > 60).all()  # consecutive ids have clearly different colours


def test_ade20k_has_its_own_colours(ade20k):
    palette = class_palette(ade20k)
    assert palette.shape == (150, 3) and palette.dtype == np.uint8
    found = {name.strip(): tuple(palette[class_id].tolist()) for class_id, name in ade20k.items()}
    assert {name: found[name] for name in ADE20K} == ADE20K
    assert zlib.crc32(palette.tobytes()) == ADE20K_CHECKSUM
    assert colorize(np.array([[0, 149, 255]], np.uint8), palette).tolist() == [[[120] * 3, [92, 0, 255], [0] * 3]]
    assert palette.any(axis=1).all()  # black is for ignored pixels only


def test_ids_may_be_text_as_in_classes_json(ade20k):
    assert np.array_equal(class_palette({str(number): name for number, name in ade20k.items()}), class_palette(ade20k))
    assert len(class_palette({"9": "a", "10": "b"})) == 11


def test_each_palette_is_an_array_of_its_own():
    class_palette(spelt_otherwise())[:] = 0
    assert class_palette(spelt_otherwise())[0].tolist() == [120, 120, 120]


@pytest.mark.parametrize(
    "id2label",
    [
        {0: "sky", 1: "ground"},
        {0: "wall"},
        spelt_otherwise() | {149: "clock"},
        spelt_otherwise() | {150: "more"},
        {0: "other"} | {number + 1: name for number, name in spelt_otherwise().items()},
        {number + 1: name for number, name in spelt_otherwise().items()},
    ],
    ids=["two", "one", "another last one", "one more", "with a background", "from 1 on"],
)
def test_other_classes_have_made_colours(id2label):
    assert np.array_equal(class_palette(id2label), make_palette(max(id2label) + 1))


def test_no_classes_have_no_colours():
    assert class_palette({}).shape == (0, 3)
