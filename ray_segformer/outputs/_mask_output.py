"""An output of `predict`, to be read: its classes, its shards and their masks."""

from __future__ import annotations

import collections
import contextlib
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from ray_segformer.images import ImageError, to_class_ids
from ray_segformer.inputs import Location
from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._folder import CLASSES_NAME, SUMMARY_NAME, read_options
from ray_segformer.outputs._mask_rows import schema_of
from ray_segformer.outputs._shards import folder_of_shards, shards_in
from ray_segformer.outputs._storage_at import storage_at

_READERS = 8  # shards that are read at the same time: each waits for the storage
_ADVICE = "A damaged file can be deleted: predict makes its images again with --resume"
_ROWS_AT_ONCE, _BUFFER_BYTES = 16, 2**20  # when few rows of a shard are read


class MaskOutput:
    """An output of `predict`. It can be sent to workers.

    Args:
        source: its path or URI.

    Attributes:
        storage: its files.
        summary: the content of its `summary.json`; None if the run that wrote it is not finished.
        options: those of that run.
        id2label: class names by class id.
        mask_format: "parquet" or "png".

    Raises:
        OutputError: there is no output of `predict`, or it cannot be read.
    """

    def __init__(self, source: str) -> None:
        self.storage = storage_at(source)
        self._location = Location(source)
        self.summary = self.storage.read_json(SUMMARY_NAME)
        options = read_options(self.storage) if self.summary is None else self.summary.get("options")
        classes = self.storage.read_json(CLASSES_NAME)
        if not options or "format" not in options or classes is None:
            raise OutputError(
                f"{self.storage.shown}: no output of ray-segformer predict (expected {SUMMARY_NAME} and {CLASSES_NAME})"
            )
        self.options = options
        self.mask_format: str = options["format"]
        try:
            self.id2label = {int(class_id): str(name) for class_id, name in classes.items()}
        except ValueError as error:
            raise OutputError(f"{self.storage.describe(CLASSES_NAME)}: expected names by class id: {error}") from error

    @property
    def is_finished(self) -> bool:
        """Whether the run that wrote it is finished."""
        return self.summary is not None

    def shards(self) -> list[str]:
        """Return the names of the shards, in the order of the input.

        Raises:
            OutputError: the run is finished, and there are fewer or more shards than it wrote.
        """
        folder = folder_of_shards(self.mask_format)
        names = shards_in(self.storage, folder)
        written = len(names) if self.summary is None else self.summary.get("shards", len(names))
        if len(names) != written:
            raise OutputError(
                f"{self.storage.describe(folder)}: there are {len(names)} files of rows, and {SUMMARY_NAME} counts "
                f"{written}; repair this with predict --resume"
            )
        return names

    def rows(self, shard: str, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a shard; see `schema_of`.

        Raises:
            OutputError: it cannot be read.
        """
        with self._opened(shard) as reader:
            return reader.read(columns)

    def place_columns(self, shard: str) -> pa.Schema:
        """Return the columns that say where an image is in its file; none if images are files. See `ImageInput`."""
        with self._opened(shard) as reader:
            schema = reader.schema_arrow
        return pa.schema([*schema][schema.get_field_index("index") + 1 : schema.get_field_index("height")])

    def cell_of(self, path: str) -> str:
        """Return the image cell of a row's `path`. A URI on the store of this output gets the options of its URI."""
        return self._location.named_in(path).cell

    def tables(self, shards: Sequence[str], columns: list[str]) -> Iterator[pa.Table]:
        """Yield some columns of all rows, as `rows`, a shard at a time. The next ones are read ahead."""
        with ThreadPoolExecutor(_READERS) as pool:
            ahead: collections.deque[Any] = collections.deque()
            for shard in shards:
                ahead.append(pool.submit(self.rows, shard, columns))
                if len(ahead) == _READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def rows_at(self, shard: str, places: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield some rows of a shard, by their ascending places in it. Only a few rows are in memory at a time.

        Raises:
            OutputError: it cannot be read.
        """
        wanted, first = collections.deque(places), 0
        with self._opened(shard, buffer_size=_BUFFER_BYTES) as reader:
            for batch in reader.iter_batches(_ROWS_AT_ONCE) if wanted else ():
                while wanted and wanted[0] < first + len(batch):
                    yield batch.slice(wanted.popleft() - first, 1).to_pylist()[0]
                first += len(batch)
                if not wanted:
                    break

    def mask(self, row: dict[str, Any]) -> npt.NDArray[np.uint8 | np.uint16] | None:
        """Return the class ids `(height, width)` of a row; None if it failed.

        Raises:
            OutputError: the file of the mask is not there, or is damaged.
        """
        return self._pixels(row, "segmentation" if self.mask_format == "parquet" else "mask")

    def confidence(self, row: dict[str, Any]) -> npt.NDArray[np.uint8 | np.uint16] | None:
        """Return the grey levels `(height, width)` of a row's confidence, where 255 is 1.0; None if it has none.

        Raises:
            OutputError: the file of the confidence is not there, or is damaged.
        """
        return None if row.get("confidence") is None else self._pixels(row, "confidence")

    def _pixels(self, row: dict[str, Any], column: str) -> npt.NDArray[np.uint8 | np.uint16] | None:
        if row["error"] is not None:
            return None
        content, shown = row[column], f"{self.storage.shown}: the {column} of {row['path']}"
        if self.mask_format == "png":
            if posixpath.isabs(row[column]) or ".." in row[column].split("/"):
                raise OutputError(f"{shown} is {row[column]}, which is not in the output; another program wrote it")
            content, shown = self.storage.read(row[column]), self.storage.describe(row[column])
            if content is None:
                raise OutputError(f"{shown}: no such file, but its row is there")
        try:
            pixels = to_class_ids(content, row["height"] * row["width"])
        except ImageError as error:
            raise OutputError(f"{shown}: {error}") from error
        if pixels.shape != (row["height"], row["width"]):
            height, width = pixels.shape
            raise OutputError(
                f"{shown}: has {height} x {width} pixels, and its row says {row['height']} x {row['width']}"
            )
        return pixels

    @contextlib.contextmanager
    def _opened(self, shard: str, **options: Any) -> Iterator[pa.parquet.ParquetFile]:
        shown = self.storage.describe(shard)
        with self.storage.open(shard) as file:
            try:
                reader = pa.parquet.ParquetFile(file, **options)
                missing = [name for name in schema_of(self.mask_format).names if name not in reader.schema_arrow.names]
                if missing:
                    raise OutputError(
                        f"{shown}: has no column {', '.join(missing)}; another program wrote it. {_ADVICE}"
                    )
                yield reader
            except (OSError, pa.ArrowException) as error:
                raise OutputError(f"{shown}: cannot be read: {error}. {_ADVICE}") from error
