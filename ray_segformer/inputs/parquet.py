"""Images in the rows of parquet files. A task reads one row group."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import ray

from ray_segformer.air import installed
from ray_segformer.guesses import Guess
from ray_segformer.images import SUFFIXES
from ray_segformer.inputs.blocks import spread
from ray_segformer.inputs.image_input import ImageInput, InputError
from ray_segformer.inputs.location import Location
from ray_segformer.inputs.parquet_columns import CellColumn, as_text, check_column, image_column_of
from ray_segformer.inputs.paths import readable, safe_name
from ray_segformer.inputs.row_keys import DoneRows

READING_CPUS = 0.25  # of a task that reads parquet: it mostly waits
_ROWS_PER_BATCH = 64
_SAMPLED_GROUPS = 32


def images_in_parquet(
    location: Location,
    files: list[str],
    image_column: str | None = None,
    annotation_column: str | None = None,
    guesses: Sequence[Guess] = (),
) -> ImageInput:
    """Return the images in parquet files.

    Args:
        location: the input, whose file system has the files.
        files: their paths.
        image_column: None for the column `image`, else the first column that can hold encoded images, else one of
            paths.
        annotation_column: None for no annotations.
        guesses: what is to be said about the input already.

    Raises:
        InputError: there are no files or no rows, or a column is missing or of a wrong type, or the name of a file is
            not UTF-8.
    """
    shown = location.shown
    if not files:
        raise InputError(f"{shown}: neither images nor parquet there (looked for {', '.join(sorted(SUFFIXES))})")
    for file in files:
        if readable(file) != file:
            raise InputError(f"{readable(file)}: the name of a parquet file must be UTF-8; rename it")
    said = list(guesses)
    if image_column is None:
        image_column, guessed = image_column_of(_metadata_of(location, files[0]).schema.to_arrow_schema(), shown)
        said += guessed
    columns = {"image": image_column} | ({"annotation": annotation_column} if annotation_column else {})
    groups = _row_groups(location, files, list(columns.values()))
    rows = sum(group["rows"] for group in groups)
    if rows == 0:
        raise InputError(f"{shown}: no rows")
    read = _ParquetRows(location, columns)

    def dataset(done: DoneRows | None = None, sample: int | None = None) -> ray.data.Dataset:
        """Return the rows that are not done, or a sample, which tasks read."""
        read_groups = groups if sample is None else _sampled(groups, sample)
        options: dict[str, Any] = {"fn_kwargs": {"done": ray.put(done)}} if done is not None else {}
        # A task reads one row group. The next stage wants batches of many rows, and Ray Data must not fuse the two:
        # it does not where they reserve different CPUs.
        groups_dataset = installed.from_items(read_groups, len(read_groups))
        return groups_dataset.map_batches(read, batch_size=1, num_cpus=READING_CPUS, **options)

    def take(limit: int) -> list[dict[str, Any]]:
        """Read the first rows, in this process."""
        tables = (table for group in groups for table in read.of_group(group))
        taken: list[dict[str, Any]] = []
        for table in tables:
            taken += table.to_pylist()
            if len(taken) >= limit:
                break
        return taken[:limit]

    def keys() -> Iterator[str]:
        """Yield the keys of all rows. The files' metadata are enough for that."""
        for group in groups:
            for row in range(group["rows"]):
                yield _key(group["file"], group["before"] + row)

    return ImageInput(rows, dataset, keys, take, said)


def _sampled(groups: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the first rows of some row groups, spread over all: about `count` rows together.

    To read few rows of each group would read all files: a group's columns are read as a whole.
    """
    rows = sum(group["rows"] for group in groups)
    chosen = spread(len(groups), max(_SAMPLED_GROUPS, math.ceil(count * len(groups) / rows)))
    each = math.ceil(count / len(chosen))
    return [{**groups[place], "rows": min(groups[place]["rows"], each)} for place in chosen]


def _row_groups(location: Location, files: list[str], columns: list[str]) -> list[dict[str, Any]]:
    """Return the row groups of parquet files.

    Each has its `file`, its number in the file (`group`), its number of `rows`, and the number of rows of the file that
    are `before` it.

    Raises:
        InputError: a file is not parquet, or lacks one of the columns, or the column is of a wrong type.
    """
    groups = []
    for file in files:
        metadata = _metadata_of(location, file)
        for column in columns:
            check_column(metadata.schema.to_arrow_schema(), column, location.file(file).path)
        before = 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            groups.append({"file": file, "group": number, "rows": rows, "before": before})
            before += rows
    return groups


def _metadata_of(location: Location, file: str) -> pa.parquet.FileMetaData:
    try:
        return pa.parquet.read_metadata(file, filesystem=location.file_system)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{location.file(file).path}: cannot be read as parquet: {error}") from error


class _ParquetRows:
    """Reads row groups, a few rows at a time, as rows of an `ImageInput`. For `map_batches`.

    Not every version of Ray's own `read_parquet` tells the number of a row in its file, which the key needs. A row
    without a path gets one from a hash of its bytes.
    """

    def __init__(self, location: Location, columns: dict[str, str]) -> None:
        self._location = location
        self._columns = columns  # the columns of rows, and those of files

    def __call__(
        self, batch: dict[str, npt.NDArray[Any]], done: ray.ObjectRef[DoneRows] | None = None
    ) -> Iterator[pa.Table]:
        done_rows = None if done is None else ray.get(done)
        for file, *numbers in zip(*(batch[name] for name in ("file", "group", "rows", "before")), strict=True):
            group, rows, before = map(int, numbers)
            yield from self.of_group({"file": str(file), "group": group, "rows": rows, "before": before}, done_rows)

    def of_group(self, group: dict[str, Any], done: DoneRows | None = None) -> Iterator[pa.Table]:
        """Yield the first `rows` of a row group, without those that are done, in tables.

        Their columns are `path`, `image`, `name` and `key`, and `annotation` if there is an annotation column.
        """
        number, location = group["before"], self._location.at(group["file"])
        with location.file_system.open_input_file(group["file"]) as file:
            reader = pa.parquet.ParquetFile(file)
            columns = list(self._columns.values())
            if "path" in reader.schema_arrow.names and "path" not in columns:
                columns.append("path")
            end = number + group["rows"]
            for rows in reader.iter_batches(_ROWS_PER_BATCH, row_groups=[group["group"]], columns=columns):
                batch = rows.slice(0, end - number)
                keys = [_key(group["file"], row) for row in range(number, number + len(batch))]
                try:
                    batch.validate(full=True)
                except pa.ArrowInvalid as error:
                    raise InputError(
                        f"{group['file']}: broken from row {number} on, in the columns {', '.join(columns)}: {error}"
                    ) from error
                number += len(batch)
                table = self._as_rows(batch, keys, location)
                yield table if done is None else table.filter(pa.array(~done.among(keys)))
                if number == end:
                    break

    def _as_rows(self, batch: pa.RecordBatch, keys: list[str], location: Location) -> pa.Table:
        cells = {name: CellColumn(batch.column(column), location) for name, column in self._columns.items()}
        images, has_path = cells["image"], "path" in batch.schema.names and "path" not in self._columns.values()
        paths = [as_text(path) for path in batch.column("path").to_pylist()] if has_path else [""] * len(batch)
        names = []
        for row, (content, label, file) in enumerate(zip(images.contents, images.labels, images.files, strict=True)):
            if file is not None:  # the image is in a file of its own
                paths[row] = file.path
            else:
                paths[row] = paths[row] or label or "image-" + hashlib.sha256(content or b"").hexdigest()[:16]
            names.append(safe_name(paths[row] if file is None else images.named[row] or ""))
        columns = {"path": pa.array(paths, pa.string())} | {name: column.array for name, column in cells.items()}
        return pa.table({**columns, "name": names, "key": keys})


def _key(file: str, row: int) -> str:
    """Return the key of a row: its file, and its number in that file."""
    return f"{file}#{row}"
