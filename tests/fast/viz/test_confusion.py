"""Pictures of confusion matrices: cells have the colours of matplotlib's colour map."""

import warnings

import matplotlib
import numpy as np
import pytest
from pixels import counts, edge_is

from ray_segformer.viz import draw_confusion

NAMES = {0: "wall", 3: "road, route", 5: "tree"}


def colour_of(share):
    """Return the colour of a share in the colour map Blues."""
    return tuple(int(part) for part in matplotlib.colormaps["Blues"](share, bytes=True)[:3])


def matrix(*rows):
    """Return a confusion matrix of six classes, in which only classes 0, 3 and 5 occur; `rows` are their rows."""
    confusion = np.zeros((6, 6), np.int64)
    confusion[np.ix_([0, 3, 5], [0, 3, 5])] = rows
    return confusion


def test_cells_have_the_colours_of_their_shares_of_the_annotated_pixels():
    # The rows have very different numbers of pixels, but the colours depend only on shares within a row.
    picture = draw_confusion(matrix([7, 0, 0], [2000, 2000, 0], [0, 0, 10**9]), [0, 3, 5], NAMES)
    found = counts(picture)
    all_right, half, none = (found.get(colour_of(share), 0) for share in (1.0, 0.5, 0.0))
    cell = none / 5  # without text
    assert cell > 1000
    for found_pixels in (all_right, half):  # two cells of each colour, minus their text
        assert 1.7 * cell < found_pixels < 2.05 * cell
    assert edge_is(picture, (255, 255, 255))


def test_rows_are_annotated_and_columns_predicted():
    picture = np.asarray(draw_confusion(matrix([0, 0, 4], [0, 4, 0], [0, 4, 0]), [0, 3, 5], NAMES))
    dark = (picture == colour_of(1.0)).all(axis=-1)
    light = (picture == colour_of(0.0)).all(axis=-1)
    rows, columns = np.nonzero(dark | light)
    top, left, height, width = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
    # A point in each cell, a quarter from its top left corner, where no text is.
    places = [
        (top + int((row + 0.25) * height / 3), left + int((column + 0.25) * width / 3))
        for row, column in np.ndindex(3, 3)
    ]
    assert [bool(dark[place]) for place in places] == [False, False, True, False, True, False, False, True, False]


def test_only_the_classes_that_are_named_are_drawn_and_pixels_of_others_count():
    confusion = matrix([1, 0, 0], [0, 1, 0], [0, 0, 1])
    confusion[0, 2] = 1  # predicted as a class that is not drawn
    picture = draw_confusion(confusion, [0, 3], NAMES)
    assert counts(picture).get(colour_of(0.5), 0) > 1000
    assert picture.width < draw_confusion(confusion, [0, 3, 5], NAMES).width
    with pytest.raises(ValueError, match="no classes to draw"):
        draw_confusion(confusion, [], NAMES)


@pytest.mark.parametrize("name", ["$$", "$_$", "US$ or A$", "水"])
def test_names_are_text_and_no_formulas(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw_confusion(matrix([7, 0, 0], [2, 2, 0], [0, 0, 9]), [0, 3, 5], {**NAMES, 3: name})
    assert picture.width > 100
