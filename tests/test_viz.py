"""Palettes, overlays and contact sheets."""

import numpy as np
import pytest

from ray_segformer.viz import colorize, contact_sheet, make_palette, overlay


@pytest.mark.parametrize("num_classes", [1, 8, 150, 300])
def test_palette_tells_classes_apart(num_classes):
    palette = make_palette(num_classes)
    assert palette.shape == (num_classes, 3) and palette.dtype == np.uint8
    assert len(np.unique(palette, axis=0)) == num_classes
    steps = np.abs(np.diff(palette.astype(int), axis=0)).sum(axis=1)
    assert (steps > 60).all()  # neighbours in number are never neighbours in colour


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
    assert mixed[1, 0].tolist() == [125, 75, 75]  # three quarters of the image, a quarter of the colour
    assert mixed[1, 5].tolist() == [75, 125, 75]
    assert mixed[1, 3].tolist() == [0, 200, 0]  # the border, in full
    assert (image == 100).all()


def test_overlay_refuses_other_sizes():
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(4, 5\)"):
        overlay(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5), np.uint8), make_palette(1))


def test_contact_sheet_shows_every_picture():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250)]
    pictures = [np.full((20 + 7 * number, 30, 3), colour, np.uint8) for number, colour in enumerate(colours)]
    sheet = contact_sheet(
        [pictures[:2], pictures[2:4], pictures[4:]],
        ["left", "right"],
        captions=["one", "two", "three"],
        legend={"thing": (1, 2, 3)},
        title="A title",
        tile_width=60,
        sheet_columns=2,
    )
    counts = {colour: count for count, colour in sheet.getcolors(1 << 20)}
    for picture, colour in zip(pictures, colours, strict=True):
        assert counts[colour] == 60 * round(picture.shape[0] * 2)
    assert counts[(1, 2, 3)] == 19 * 19  # the legend's square
