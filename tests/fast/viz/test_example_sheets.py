"""Sheets of example images and of predictions."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pixels import BLUE, GREEN, PAPER, RED, counts, edge_is, flat

from ray_segformer.images import ImageError
from ray_segformer.viz import class_palette, display_example_images, make_palette, visualize_predictions

NOTE = (225, 225, 222)
NAMES = {0: "left", 1: "right"}


def encoded(picture, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def halves(height=40, width=60, left=0, right=1):
    mask = np.full((height, width), left, np.uint8)
    mask[:, width // 2 :] = right
    return mask


def mixed(colour, palette_colour):
    """Return a colour of an image with a class's colour over it."""
    return tuple(int(a * 0.5 + b * 0.5 + 0.5) for a, b in zip(colour, palette_colour, strict=True))


def test_examples_of_any_cells(tmp_path):
    path = tmp_path / "green.png"
    path.write_bytes(encoded(flat(GREEN)))
    cells = [flat(RED), str(path), encoded(flat(BLUE)), Image.fromarray(flat((0, 200, 200)))]
    found = counts(display_example_images(cells, columns=3, tile_width=60))
    assert [found[colour] for colour in (RED, GREEN, BLUE, (0, 200, 200))] == [60 * 40] * 4


def test_examples_are_the_first_in_a_grid():
    images = [flat((10 * number, 0, 0)) for number in range(12)]
    sheet = display_example_images(images, count=5, columns=2, tile_width=60)
    pixels = np.asarray(sheet)
    centres = [pixels[12 + 20 + 52 * (n // 2), 24 + 30 + 72 * (n % 2)].tolist() for n in range(6)]
    assert centres == [*([10 * number, 0, 0] for number in range(5)), list(PAPER)]
    default = display_example_images(images)
    assert sum(colour[1:] == (0, 0) for colour in counts(default)) == 8
    assert default.width == 4 * (240 + 12) + 24


@pytest.mark.parametrize("kind", [np.stack, pd.Series, iter])
def test_examples_of_other_sequences(kind):
    found = counts(display_example_images(kind([flat(RED), flat(GREEN), flat(BLUE)]), count=2, tile_width=60))
    assert found[RED] == found[GREEN] == 60 * 40 and BLUE not in found


def test_examples_refuse_what_they_cannot_show():
    with pytest.raises(ValueError, match="no images; expected"):
        display_example_images([])
    with pytest.raises(ValueError, match="0 and 4"):
        display_example_images([flat(RED)], count=0)
    with pytest.raises(ImageError, match="row 1: "):
        display_example_images([flat(RED), b"no image"])


def test_predictions_are_laid_over_their_images():
    grey, palette = (100, 90, 110), make_palette(2).tolist()  # slightly blue, a colour that no text has
    annotation = halves(left=1, right=255)
    sheet = visualize_predictions([flat(grey)], [halves()], NAMES, annotations=[annotation], tile_width=60)
    found = counts(sheet)
    assert found[grey] == 60 * 40
    assert found[mixed(grey, palette[0])] == 30 * 40  # the mask's left half
    assert found[mixed(grey, palette[1])] == 29 * 40 + 30 * 40  # its right half without the border; annotation
    assert found[mixed(grey, (0, 0, 0))] == 29 * 40  # ignored: black
    assert found[tuple(palette[0])] == 19 * 19  # the legend
    assert found[tuple(palette[1])] == 19 * 19 + 40  # the legend and the border
    assert found[(0, 0, 0)] == 40  # the border of what is ignored, but nothing in the legend
    tiles = [np.asarray(sheet)[34 + 20, left : left + 60].tolist() for left in (24, 24 + 72, 24 + 144)]
    right = [tile[45] for tile in tiles]  # of the image, its annotation and the mask, in this order
    assert right == [list(colour) for colour in (grey, mixed(grey, (0, 0, 0)), mixed(grey, palette[1]))]


def test_predictions_have_the_classes_colours():
    names = {number: f"class {number}" for number in range(150)}
    names |= {0: "wall", 1: "building", 2: "sky", 4: "tree", 12: "person", 149: "flag"}
    mask = np.zeros((40, 60), np.uint8)
    found = counts(visualize_predictions([flat(RED)], [mask], names, tile_width=60))
    assert found[(120, 120, 120)] >= 19 * 19 and found[mixed(RED, (120, 120, 120))] == 60 * 40


def test_the_legend_has_the_largest_class_first():
    names = {number: f"number {number}" for number in range(6)}
    mask = np.repeat(np.array([3, 3, 3, 5, 1, 1], np.uint8), 10)[None].repeat(40, axis=0)
    annotation = np.where(mask == 5, 255, 4).astype(np.uint8)  # class 4 is not in the mask
    sheet = visualize_predictions([flat(PAPER)], [mask], names, annotations=[annotation], tile_width=400)
    text = {str(number): name for number, name in names.items()}  # as classes.json has them
    assert sheet == visualize_predictions([flat(PAPER)], [mask], text, annotations=[annotation], tile_width=400)
    pixels, palette = np.asarray(sheet), class_palette(names)
    legend = pixels[-20]  # across the squares
    left = {number: np.flatnonzero((legend == palette[number]).all(axis=1)).min(initial=9999) for number in names}
    assert left[4] < left[3] < left[1] < left[5] < 9999 and left[0] == left[2] == 9999


def test_classes_of_one_name_have_each_a_line_of_the_legend():
    legend = visualize_predictions([np.zeros((40, 60, 3), np.uint8)], [halves()], {0: "a", 1: "a"})
    legend = legend.crop((0, legend.height - 40, *legend.size))
    first, second = (counts(legend).get(tuple(colour), 0) for colour in make_palette(2).tolist())
    assert first == second > 100


def test_captions_have_names_and_losses():
    def height(**options):
        return visualize_predictions([flat(RED)] * 2, [halves()] * 2, NAMES, tile_width=60, **options).height

    plain = height()
    assert height(names=["a", None]) == height(losses=[0.5, float("nan")]) == plain + 24
    # Options that give the same text give the same picture.
    pictures = [
        visualize_predictions([flat(RED)], [halves()], NAMES, **options).tobytes()
        for options in (
            {"names": ["a"], "losses": [0.1234]},
            {"names": ["a   loss 0.123"]},
            {"names": ["a"]},
            {"names": ["a"], "losses": [None]},
            {"names": ["a"], "losses": [float("nan")]},
        )
    ]
    assert pictures[0] == pictures[1] != pictures[2] == pictures[3] == pictures[4]


def test_failed_rows_show_a_note():
    empty = np.zeros((0, 0), np.uint8)  # Ray Data's NumPy batches have this for a null
    images = [flat(RED), flat(GREEN), b"no image", None]
    sheet = visualize_predictions(images, [None, empty, None, None], NAMES, tile_width=100)
    found = counts(sheet)
    assert found[RED] == found[GREEN] == 100 * 67
    assert found[NOTE] > 2 * 100 * 67 + 4 * 100 * 75 - 5000  # all pixels except the text
    assert edge_is(sheet, PAPER)


def test_masks_and_annotations_are_cells_too():
    cell = {"image": flat(RED), "mask": halves(), "annotation": halves(right=255)}
    arrays = visualize_predictions([cell["image"]], [cell["mask"]], NAMES, annotations=[cell["annotation"]])
    files = {name: encoded(value) for name, value in cell.items()}
    pngs = visualize_predictions([files["image"]], [files["mask"]], NAMES, annotations=[files["annotation"]])
    assert arrays.tobytes() == pngs.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": [halves()]}, "2 images but 1 masks: row 1"),
        ({"annotations": [halves()] * 3}, "2 images but 3 annotations: row 2"),
        ({"losses": []}, "2 images but 0 losses: row 0"),
        ({"names": ["a"]}, "2 images but 1 names: row 1"),
        ({"masks": [halves(), halves(60, 40)]}, r"row 1.*\(40, 60\).*mask.*\(60, 40\)"),
        ({"annotations": [halves(40, 61), halves()]}, r"row 0.*\(40, 60\).*annotation.*\(40, 61\)"),
        ({"images": [], "masks": []}, "no images; expected"),
        ({"images": [flat(RED), b"no image"]}, "row 1: "),
        ({"masks": [halves() / 2, halves()]}, "row 0: .*float64"),
    ],
)
def test_predictions_refuse_what_does_not_fit(change, message):
    arguments = {"images": [flat(RED)] * 2, "masks": [halves()] * 2, "id2label": NAMES} | change
    with pytest.raises(ValueError, match=message):
        visualize_predictions(**arguments)


def test_predictions_of_real_images(real_pairs):
    images, annotations = zip(*real_pairs[:5], strict=True)
    names = {number: f"class {number}" for number in range(150)}
    reduced = [np.asarray(Image.open(path)) - np.uint8(1) for path in annotations]  # 0 to 255
    sheet = visualize_predictions(images, reduced, names, annotations=reduced, names=[path.name for path in images])
    present = {int(number) for number in np.unique(np.concatenate([ids.ravel() for ids in reduced]))} - {255}
    found, palette = counts(sheet), class_palette(names)
    assert len(present) > 20
    assert all(found.get(tuple(palette[number].tolist()), 0) >= 19 * 19 for number in present)
    pixels = np.asarray(sheet)
    assert (pixels[:, 24 + 312 : 24 + 612] == pixels[:, 24 + 624 : 24 + 924])[
        40:200
    ].all()  # both columns show the same mask
    assert edge_is(sheet, PAPER)
