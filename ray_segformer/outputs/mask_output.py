"""An output of `predict`, to be read: its classes, its shards and their masks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from ray_segformer.images import to_class_ids
from ray_segformer.inputs import Location
from ray_segformer.outputs.errors import OutputError
from ray_segformer.outputs.folder import CLASSES_NAME, JOB_NAME, SUMMARY_NAME, storage_at
from ray_segformer.outputs.shards import folder_of_shards


class MaskOutput:
    """An output of `predict`. It can be sent to workers.

    Args:
        source: its path or URI.

    Attributes:
        storage: its files.
        is_finished: whether the run that wrote it was finished.
        options: those of that run.
        id2label: class names by class id.
        mask_format: "parquet" or "png".

    Raises:
        OutputError: there is no output of `predict`, or it cannot be read.
    """

    def __init__(self, source: str) -> None:
        self.storage = storage_at(source)
        self._location = Location(source)
        summary = self._read_json(SUMMARY_NAME)
        options = self._read_json(JOB_NAME) if summary is None else summary.get("options")
        classes = self._read_json(CLASSES_NAME)
        self.is_finished = summary is not None
        if not options or "format" not in options or classes is None:
            raise OutputError(
                f"{self.storage.shown}: no output of ray-segformer predict (expected {SUMMARY_NAME} and {CLASSES_NAME})"
            )
        self.options = options
        self.mask_format: str = options["format"]
        self.id2label = {int(class_id): str(name) for class_id, name in classes.items()}

    def shards(self) -> list[str]:
        """Return the names of the files of rows, in the order of the input."""
        names = self.storage.names(folder_of_shards(self.mask_format))
        return [name for name in names if name.endswith(".parquet")]

    def rows(self, shard: str, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a shard; see `schema_of`."""
        with self.storage.open(shard) as file:
            return pa.parquet.read_table(file, columns=columns)

    def place_columns(self, shard: str) -> pa.Schema:
        """Return the columns that say where an image is in its file; none if each has its own. See `ImageInput`."""
        with self.storage.open(shard) as file:
            schema = pa.parquet.read_schema(file)
        return pa.schema([*schema][schema.get_field_index("index") + 1 : schema.get_field_index("height")])

    def cell_of(self, path: str) -> str:
        """Return the `path` of a row as the cell of an image. On the store of this output, it has its options."""
        return self._location.named_in(path).cell

    def mask(self, row: dict[str, Any]) -> npt.NDArray[np.uint8 | np.uint16] | None:
        """Return the class ids `(height, width)` of a row; None if it failed.

        Raises:
            OutputError: the file of the mask is not there.
        """
        if row["error"] is not None:
            return None
        content = row["segmentation"] if self.mask_format == "parquet" else self.storage.read(row["mask"])
        if content is None:
            raise OutputError(f"{self.storage.describe(row['mask'])}: no such file, but its row is there")
        return to_class_ids(content, row["height"] * row["width"])

    def _read_json(self, name: str) -> dict[str, Any] | None:
        content = self.storage.read(name)
        try:
            return None if content is None else dict(json.loads(content))
        except (TypeError, ValueError) as error:
            raise OutputError(f"{self.storage.describe(name)}: cannot be read: {error}") from error
