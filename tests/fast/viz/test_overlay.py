"""Class maps in colour, and the shares of classes."""

import json

import numpy as np
import pytest

from ray_segformer.viz import class_areas, colorize, make_palette, overlay


def test_colorize():
    palette = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    coloured = colorize(np.array([[0, 1], [1, 255]], np.uint8), palette)
    assert coloured.tolist() == [[[10, 20, 30], [40, 50, 60]], [[40, 50, 60], [0, 0, 0]]]
    assert colorize(np.array([[299]], np.uint16), make_palette(300))[0, 0].tolist() == make_palette(300)[299].tolist()


def test_overlay_blends_and_draws_borders():
    image = np.full((4, 6, 3), 100, np.uint8)
    segmentation = np.zeros((4, 6), np.uint8)
    segmentation[:, 3:] = 1
    palette = np.array([[200, 0, 0], [0, 200, 0]], np.uint8)
    mixed = overlay(image, segmentation, palette, alpha=0.25)
    assert mixed[1, 0].tolist() == [125, 75, 75]  # 75 % image, 25 % class colour
    assert mixed[1, 5].tolist() == [75, 125, 75]
    assert mixed[1, 3].tolist() == [0, 200, 0]  # the border, in full colour
    assert mixed[1, 2].tolist() == [125, 75, 75]  # on one side alone
    assert (image == 100).all()
    lying = overlay(image.transpose(1, 0, 2), segmentation.T, palette, alpha=0.25)
    np.testing.assert_array_equal(lying, mixed.transpose(1, 0, 2))


def test_overlay_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(4, 5\)"):
        overlay(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5), np.uint8), make_palette(1))


@pytest.mark.parametrize("image", [np.zeros((4, 6, 3)), np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8)])
def test_overlay_refuses_other_images(image):
    with pytest.raises(ValueError, match=rf"an image is uint8 \(H, W, 3\), not {image.dtype} \(4, 6.*to_rgb"):
        overlay(image, np.zeros((4, 6), np.uint8), make_palette(1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_class_areas(dtype):
    segmentation = np.array([[2, 2, 2, 2, 3], [1, 1, 1, 255, 0]], dtype)
    areas = class_areas(segmentation, {3: "d", 0: "a", 1: "b", 2: "c", 4: "e"})
    assert list(areas.items()) == [(2, 0.4), (1, 0.3), (0, 0.1), (3, 0.1)]
    assert class_areas(segmentation, {"3": "d", "2": "c"}) == {2: 0.4, 3: 0.1}  # as classes.json has them
    assert json.loads(json.dumps(areas)) == {
        "2": 0.4,
        "1": 0.3,
        "0": 0.1,
        "3": 0.1,
    }  # plain ints and floats, which json can write


def test_class_areas_of_nothing():
    assert class_areas(np.zeros((0, 0), np.uint8), {0: "a"}) == {}
    assert class_areas(np.full((2, 2), 255, np.uint8), {0: "a"}) == {}
