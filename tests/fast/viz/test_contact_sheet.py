"""Sheets of pictures in a grid."""

import numpy as np
import pytest
from pixels import BLUE, GREEN, PAPER, RED, counts, edge_is, flat, ink

from ray_segformer.viz import contact_sheet

LONG = "/a/long/path/without/a/space/" * 8


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
    found = counts(sheet)
    for picture, colour in zip(pictures, colours, strict=True):
        assert found[colour] == 60 * round(picture.shape[0] * 2)
    assert found[(1, 2, 3)] == 19 * 19  # the legend's square


def test_pictures_that_are_much_higher_than_wide_become_narrow():
    sheet = contact_sheet([[np.full((4000, 40, 3), RED, np.uint8)]], [""], tile_width=50)
    assert counts(sheet)[RED] == 200 * 2
    assert sheet.height < 250


@pytest.mark.parametrize("tile_width", [90, 300])
def test_a_long_legend_is_whole(tile_width):
    legend = {f"a class with quite a long name, number {number}": (number, 200, 100) for number in range(40)}
    sheet = contact_sheet([[flat(RED)]], [""], legend=legend, tile_width=tile_width)
    found = counts(sheet)
    assert [found[colour] for colour in legend.values()] == [19 * 19] * 40  # none is cut off or covered
    assert edge_is(sheet, PAPER)


def test_long_texts_leave_their_neighbours_alone():
    sheet = contact_sheet(
        [[flat(RED)], [flat(GREEN)]],
        [LONG],
        captions=[LONG, ""],
        title=LONG,
        legend={LONG: BLUE},
        tile_width=90,
        sheet_columns=2,
    )
    assert sheet.width == 2 * (90 + 24) + 12
    between = np.asarray(sheet)[
        44:-42, 24 + 90 : 24 + 90 + 23
    ]  # between the columns, below the title and above the legend
    assert (between == PAPER).all()
    found = counts(sheet)
    assert found[RED] == found[GREEN] == 90 * 60 and found[BLUE] == 19 * 19
    assert edge_is(sheet, PAPER)


@pytest.mark.parametrize("text", [LONG, "some words " * 20, "two\nlines " * 9])
def test_long_captions_are_shown_to_their_end(text):
    blank = flat(PAPER, 2, 600)
    narrow, wide = (contact_sheet([[blank]], [""], captions=[text], tile_width=width) for width in (120, 3000))
    assert narrow.height > wide.height + 30
    assert ink(narrow) == pytest.approx(ink(wide), rel=0.03)
    assert ink(wide) > 10_000


def test_rows_without_headings_start_at_the_top():
    top = [np.flatnonzero((np.asarray(contact_sheet([[flat(RED)]], [text])) == RED).all(2).any(1))[0] for text in "x "]
    assert top == [34, 34]  # a heading of one space counts as a heading
    assert np.asarray(contact_sheet([[flat(RED)]], [""]))[12, 40].tolist() == list(RED)
