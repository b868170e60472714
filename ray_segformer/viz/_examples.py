"""Sheets of example images and of predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from ray_segformer._class_names import distinct_names
from ray_segformer.images import MAX_PIXELS, ImageError, cells, to_class_ids, to_rgb
from ray_segformer.viz._overlay import class_areas, overlay
from ray_segformer.viz._palette import class_palette
from ray_segformer.viz._sheet import contact_sheet, note, scaled


def display_example_images(
    images: Any, *, count: int = 8, columns: int = 4, image_column: str = "image", tile_width: int = 240
) -> Image.Image:
    """Return the first images in a grid.

    A notebook displays the result if it is the last expression of a cell. `.save(path)` writes it to a file.

    Args:
        images: image cells (anything that `ray_segformer.images.to_rgb` takes) in a list, an array, a Series or another
            iterable; or a Ray Dataset, of which only the first `count` rows are computed.
        count: the largest number of images.
        columns: how many images to put next to each other.
        image_column: the Dataset's column of image cells. Not used for other `images`.
        tile_width: the width in pixels that images are scaled to.

    Returns:
        An RGB image.

    Raises:
        ValueError: there are no images, the Dataset has no such column, or `count` or `columns` is below 1.
        ImageError: an image is unreadable; the message names its row.
    """
    if count < 1 or columns < 1:
        raise ValueError(f"count and columns are at least 1, not {count} and {columns}")
    # Arrays and Series have a `take` too, but with another meaning.
    if hasattr(images, "take") and not isinstance(images, (np.ndarray, pd.Series)):
        images = [_cell(row, image_column) for row in images.take(count)]
    pictures = []
    for number, cell in enumerate(islice(cells(images), count)):
        try:
            pictures.append(to_rgb(cell))
        except ImageError as error:
            raise ImageError(f"row {number}: {error}") from error
    if not pictures:
        raise ValueError("there are no images; expected a sequence of image cells, or a Ray Dataset, that is not empty")
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    return contact_sheet(rows, [""] * min(columns, len(pictures)), tile_width=tile_width)


def visualize_predictions(
    images: Iterable[Any],
    masks: Iterable[Any],
    id2label: Mapping[int, str] | Mapping[str, str],
    *,
    annotations: Iterable[Any] | None = None,
    losses: Iterable[float | None] | None = None,
    names: Iterable[str | None] | None = None,
    tile_width: int = 300,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Return a sheet with a row for each image: the image, its annotation over it, and SegFormer's mask over it.

    If a row has no mask, because it failed, a note takes the mask's place. If its image is unreadable too, another note
    says why. Below the rows is a legend of the classes that occur, each with its share of the pixels of all masks and
    annotations.

    Args:
        images: image cells (anything that `ray_segformer.images.to_rgb` takes).
        masks: for each image class ids `(H, W)` of the image's size, any integer dtype, or a cell of them such as the
            bytes of a PNG. None or an empty array for a row that failed.
        id2label: class names by class id, or text of it, as in `classes.json`. `class_palette` chooses the colours.
        annotations: like `masks`, and with the same class ids: those in ADE20K's files are larger by 1. 255 (ignored)
            is drawn black. Without annotations there is no column for them.
        losses: a number for each row; None or NaN to leave it out.
        names: a caption for each row; None to leave it out.
        tile_width: the width in pixels that images are scaled to.
        max_pixels: images, masks and annotations with more pixels are unreadable.

    Returns:
        An RGB image.

    Raises:
        ValueError: there are no images, arguments have different lengths, or the size of a mask or annotation is not
            that of its image; the message names the row and both sizes.
        ImageError: an image with a mask is unreadable, or a mask or annotation is; the message names the row.
    """
    given = {"images": images, "masks": masks, "annotations": annotations, "losses": losses, "names": names}
    lists = {name: list(cells(column)) for name, column in given.items() if column is not None}
    rows = len(lists["images"])
    for name, values in lists.items():
        if len(values) != rows:
            raise ValueError(
                f"there are {rows} images but {len(values)} {name}: row {min(rows, len(values))} lacks one"
            )
    if not rows:
        raise ValueError("there are no images; expected at least one image cell, and as many masks")
    headings = ["image", "annotation", "SegFormer"] if "annotations" in lists else ["image", "SegFormer"]
    palette = class_palette(id2label)
    id2label = distinct_names({int(class_id): label for class_id, label in id2label.items()})
    kinds = [name for name in ("annotation", "mask") if name + "s" in lists]
    pictures, shown = [], []
    for row in range(rows):
        maps = {name: _class_map(row, lists[name + "s"][row], max_pixels) for name in kinds}
        try:
            image = to_rgb(lists["images"][row], max_pixels)
        except ImageError as error:
            if maps["mask"] is not None:
                raise ImageError(f"row {row}: {error}") from error
            texts = [f"no image: {error}", *("no image" for _ in maps)]
            pictures.append([note(text, tile_width, tile_width * 3 // 4) for text in texts])
            continue
        over = [_over(row, image, name, ids, palette, tile_width) for name, ids in maps.items()]
        # Scaled at once, so that the full-size pictures need not stay in memory.
        pictures.append([scaled(picture, tile_width) for picture in (image, *over)])
        shown += [ids.ravel() for ids in maps.values() if ids is not None]
    areas = class_areas(np.concatenate(shown), id2label) if shown else {}
    return contact_sheet(
        pictures,
        headings,
        captions=[_caption(lists, row) for row in range(rows)] if names is not None or losses is not None else (),
        legend={f"{id2label[class_id]} {_percent(share)}": palette[class_id] for class_id, share in areas.items()},
        tile_width=tile_width,
    )


def _cell(row: Mapping[str, Any], column: str) -> Any:
    """Return the cell in a column of a dataset's row."""
    if column not in row:
        raise ValueError(f"the dataset has no column {column!r}; it has {', '.join(map(repr, row))}")
    return row[column]


def _class_map(row: int, cell: Any, max_pixels: int) -> npt.NDArray[Any] | None:
    """Return class ids `(H, W)`, or None if there are none: Ray Data's NumPy batches have empty arrays for nulls."""
    if cell is None or (isinstance(cell, np.ndarray) and cell.size == 0):
        return None
    try:
        return to_class_ids(cell, max_pixels)
    except ImageError as error:
        raise ImageError(f"row {row}: {error}") from error


def _over(
    row: int,
    image: npt.NDArray[np.uint8],
    name: str,
    ids: npt.NDArray[Any] | None,
    palette: npt.NDArray[np.uint8],
    tile_width: int,
) -> npt.NDArray[np.uint8]:
    """Return an image with its mask or annotation over it, or a note of the image's proportions if there is none."""
    if ids is None:
        return note(f"no {name}", tile_width, scaled(image, tile_width).shape[0])
    if ids.shape != image.shape[:2]:
        raise ValueError(f"row {row}: the image is {image.shape[:2]} but its {name} is {ids.shape}, (H, W)")
    return overlay(image, ids, palette)


def _caption(lists: Mapping[str, list[Any]], row: int) -> str:
    """Return the name and the loss of a row, as far as they are given."""
    name = lists["names"][row] if "names" in lists else None
    loss = lists["losses"][row] if "losses" in lists else None
    return "   ".join([*([str(name)] if name else []), *([f"loss {loss:.3f}"] if loss is not None else [])])


def _percent(share: float) -> str:
    """Return a share as a text in percent."""
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
