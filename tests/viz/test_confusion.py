"""Confusions as a picture: the colours of the cells, by matplotlib's own colour map."""

import matplotlib
import numpy as np
import pytest
from pixels import counts, edge_is

from ray_segformer.viz import draw_confusion

NAMES = {0: "wall", 3: "road, route", 5: "tree"}


def colour_of(share):
    """Of a share of a row's pixels, in the map that readers know as Blues."""
    return tuple(int(part) for part in matplotlib.colormaps["Blues"](share, bytes=True)[:3])


def matrix(*rows):
    """A matrix of six classes with these rows for classes 0, 3 and 5, in their columns."""
    confusion = np.zeros((6, 6), np.int64)
    confusion[np.ix_([0, 3, 5], [0, 3, 5])] = rows
    return confusion


def test_cells_have_the_colours_of_their_shares_of_the_annotated_pixels():
    # Rows are shares of what is annotated, so that large classes look like small ones.
    picture = draw_confusion(matrix([7, 0, 0], [2000, 2000, 0], [0, 0, 10**9]), [0, 3, 5], NAMES)
    found = counts(picture)
    all_right, half, none = (found.get(colour_of(share), 0) for share in (1.0, 0.5, 0.0))
    cell = none / 5  # without text
    assert cell > 1000
    for found_pixels in (all_right, half):  # two cells each, less the text in them
        assert 1.7 * cell < found_pixels < 2.05 * cell
    assert edge_is(picture, (255, 255, 255))


def test_rows_are_annotated_and_columns_predicted():
    picture = np.asarray(draw_confusion(matrix([0, 0, 4], [0, 4, 0], [0, 4, 0]), [0, 3, 5], NAMES))
    dark = (picture == colour_of(1.0)).all(axis=-1)
    light = (picture == colour_of(0.0)).all(axis=-1)
    rows, columns = np.nonzero(dark | light)
    top, left, height, width = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
    # A quarter into each cell, beside its text.
    places = [
        (top + int((row + 0.25) * height / 3), left + int((column + 0.25) * width / 3))
        for row, column in np.ndindex(3, 3)
    ]
    assert [bool(dark[place]) for place in places] == [False, False, True, False, True, False, False, True, False]


def test_only_the_classes_that_are_named_are_drawn_and_pixels_of_others_count():
    confusion = matrix([1, 0, 0], [0, 1, 0], [0, 0, 1])
    confusion[0, 2] = 1  # taken for a class that is not drawn
    picture = draw_confusion(confusion, [0, 3], NAMES)
    assert counts(picture).get(colour_of(0.5), 0) > 1000
    assert picture.width < draw_confusion(confusion, [0, 3, 5], NAMES).width
    with pytest.raises(ValueError, match="no classes to draw"):
        draw_confusion(confusion, [], NAMES)
