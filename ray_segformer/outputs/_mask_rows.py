"""The rows of an output of masks, one for each image: their columns, and the areas of classes added up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa


def schema_of(mask_format: str, *, confidence: bool = False, columns: Iterable[pa.Field] = ()) -> pa.Schema:
    """Return the columns of an output.

    Args:
        mask_format: "parquet" has the bytes of PNG files in `segmentation` and `confidence`. "png" has the paths of
            these files in the output, in `mask` and `confidence`.
        confidence: whether there is a column `confidence`.
        columns: those of the `ImageInput`. Default: none.

    Returns:
        `path`; `index`, the place in the input, from 0; `columns`; `height` and `width`; `segmentation` or `mask`,
        class ids; `confidence`, 8-bit grey, where 255 is 1.0; `class_ids`, the classes that occur, most pixels first,
        and `class_pixels`, how many pixels each has; `error`, null, or why the columns from `height` on are null.
    """
    image = pa.string() if mask_format == "png" else pa.binary()
    fields = [pa.field("path", pa.string()), pa.field("index", pa.int64()), *columns]
    fields += [pa.field("height", pa.int32()), pa.field("width", pa.int32())]
    fields.append(pa.field("mask" if mask_format == "png" else "segmentation", image))
    if confidence:
        fields.append(pa.field("confidence", image))
    areas = [("class_ids", pa.list_(pa.uint16())), ("class_pixels", pa.list_(pa.int64()))]
    return pa.schema([*fields, *areas, ("error", pa.string())])


class ClassAreas:
    """How many pixels each class has in an output, and in how many images it occurs."""

    def __init__(self) -> None:
        self._pixels = np.zeros(2**16, np.int64)
        self._images = np.zeros(2**16, np.int64)

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table with the columns `class_ids` and `class_pixels`."""
        ids, pixels = (
            table.column(name).combine_chunks().flatten().to_numpy() for name in ("class_ids", "class_pixels")
        )
        np.add.at(self._pixels, ids, pixels)
        np.add.at(self._images, ids, 1)

    def as_lists(self) -> list[list[int]]:
        """Return the class ids that occur, the pixels of each, and its images."""
        (ids,) = np.nonzero(self._images)
        return [ids.tolist(), self._pixels[ids].tolist(), self._images[ids].tolist()]

    def add_lists(self, lists: list[list[int]]) -> None:
        """Add what `as_lists` returned elsewhere."""
        ids, pixels, images = (np.array(numbers, np.int64) for numbers in lists)
        self._pixels[ids] += pixels
        self._images[ids] += images

    def as_json(self, id2label: dict[int, str]) -> list[dict[str, Any]]:
        """Return a list by class id of `id`, `name`, `pixels`, `share` of all pixels in [0, 1], and `images`."""
        total = max(int(self._pixels.sum()), 1)
        return [
            {
                "id": class_id,
                "name": name,
                "pixels": int(self._pixels[class_id]),
                "share": round(int(self._pixels[class_id]) / total, 6),
                "images": int(self._images[class_id]),
            }
            for class_id, name in sorted(id2label.items())
        ]
