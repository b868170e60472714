"""The rows of an output of masks, one for each image: their columns, and the areas of classes added up."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from ray_segformer.jobs.atomic_write import parquet_bytes, write_atomically
from ray_segformer.jobs.output_folder import OutputError


def schema_of(mask_format: str, *, confidence: bool = False) -> pa.Schema:
    """Return the columns of an output.

    Args:
        mask_format: "parquet" has the bytes of PNG files in `segmentation` and `confidence`. "png" has the paths of
            these files in the output, in `mask` and `confidence`.
        confidence: whether there is a column `confidence`.

    Returns:
        `path`; `height` and `width`; `segmentation` or `mask`, class ids; `confidence`, 8-bit grey, where 255 is 1.0;
        `class_ids`, the classes that occur, most pixels first, and `class_pixels`, how many pixels each has; `error`,
        null, or why the columns between `path` and this one are null.
    """
    image = pa.string() if mask_format == "png" else pa.binary()
    columns = [("path", pa.string()), ("height", pa.int32()), ("width", pa.int32())]
    columns.append(("mask" if mask_format == "png" else "segmentation", image))
    if confidence:
        columns.append(("confidence", image))
    columns += [("class_ids", pa.list_(pa.uint16())), ("class_pixels", pa.list_(pa.int64())), ("error", pa.string())]
    return pa.schema(columns)


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


class RowShards:
    """The rows of an output in parquet, one file a shard, in `masks/` or, beside PNG files, in `rows/`.

    Args:
        folder: the unfinished output.
        mask_format: "parquet" or "png".
        confidence: as for `schema_of`.

    Attributes:
        areas: the areas of the classes in all shards that were written or remembered.
    """

    def __init__(self, folder: str, mask_format: str, *, confidence: bool = False) -> None:
        self._folder = os.path.join(folder, "masks" if mask_format == "parquet" else "rows")
        self._schema = schema_of(mask_format, confidence=confidence)
        self.areas = ClassAreas()

    def write(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Write the shard of a number. It replaces one that a killed process wrote but did not commit."""
        os.makedirs(self._folder, exist_ok=True)
        table = pa.Table.from_pylist(
            [{name: row.get(name) for name in self._schema.names} for row in rows], self._schema
        )
        write_atomically(self._path(number), parquet_bytes(table))
        self.areas.add(table)

    def remember(self, number: int) -> None:
        """Count the shard that an earlier run wrote.

        Raises:
            OutputError: it cannot be read.
        """
        try:
            self.areas.add(pa.parquet.read_table(self._path(number), columns=["class_ids", "class_pixels"]))
        except (OSError, pa.ArrowException) as error:
            raise OutputError(
                f"{self._path(number)}: cannot read what the earlier run wrote: {error}; start again with --overwrite"
            ) from error

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"part-{number:05d}.parquet")
