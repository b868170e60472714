"""Images in the rows of parquet files, which tasks read a row group at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import ray

from ray_segformer.air import installed
from ray_segformer.images import SUFFIXES
from ray_segformer.inputs.image_input import ImageInput, InputError
from ray_segformer.inputs.paths import readable, safe_name
from ray_segformer.inputs.row_keys import DoneRows

READING_CPUS = 0.25  # of a task that reads parquet, and mostly waits
_ROWS_AT_ONCE = 64  # of encoded images


def images_in_parquet(
    file_system: pa.fs.FileSystem,
    files: list[str],
    source: str,
    image_column: str | None = None,
    annotation_column: str | None = None,
) -> ImageInput:
    if not files:
        raise InputError(f"{source}: neither images nor parquet there (looked for {', '.join(sorted(SUFFIXES))})")
    for file in files:
        if readable(file) != file:
            raise InputError(f"{readable(file)}: the name of a parquet file is UTF-8; rename it")
    schema = pa.parquet.read_schema(files[0], filesystem=file_system)
    image_column = image_column or _image_column(schema, source)
    for column in filter(None, (image_column, annotation_column)):
        if column not in schema.names:
            raise InputError(f"{source}: no column {column!r}, only {', '.join(schema.names)}")
    groups = _row_groups(file_system, files)
    rows = sum(group["rows"] for group in groups)
    if rows == 0:
        raise InputError(f"{source}: no rows")
    has_path = "path" in schema.names and "path" not in (image_column, annotation_column)
    read = _ParquetRows(file_system, image_column, annotation_column, has_path)

    def dataset(done: DoneRows | None = None) -> ray.data.Dataset:
        """The rows that are not done, read by tasks."""
        options: dict[str, Any] = {"fn_kwargs": {"done": ray.put(done)}} if done is not None else {}
        # A task reads one group: with CPUs of its own, Ray does not join it to the stage after it, which wants batches.
        groups_dataset = installed.from_items(groups, len(groups))
        return groups_dataset.map_batches(read, batch_size=1, num_cpus=READING_CPUS, **options)

    def take(limit: int) -> list[dict[str, Any]]:
        """The first rows, read here."""
        tables = (table for group in groups for table in read.of_group(group))
        taken: list[dict[str, Any]] = []
        for table in tables:
            taken += table.to_pylist()
            if len(taken) >= limit:
                break
        return taken[:limit]

    def keys() -> Iterator[str]:
        """Those of all rows, whose number the files' metadata say."""
        places = ((group["file"], group["before"] + row) for group in groups for row in range(group["rows"]))
        return (_ParquetRows.KEY.format(*place) for place in places)

    return ImageInput(rows, dataset, keys, take)


def _row_groups(file_system: pa.fs.FileSystem, files: list[str]) -> list[dict[str, Any]]:
    """The row groups of parquet files: which of which file, its rows, and how many the file has before it."""
    groups = []
    for file in files:
        metadata = pa.parquet.read_metadata(file, filesystem=file_system)
        before = 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            groups.append({"file": file, "group": number, "rows": rows, "before": before})
            before += rows
    return groups


class _ParquetRows:
    """Reads row groups, a few rows at a time, and names their columns as the command has them. For `map_batches`.

    Ray's own `read_parquet` does not say which row of its file a row was, on every Ray. A path that is missing is made
    of the bytes.
    """

    KEY = "{}#{}"  # a file, and the number of a row in it

    def __init__(self, file_system: pa.fs.FileSystem, image_column: str, annotation_column: str | None, has_path: bool):
        self._file_system = file_system
        self._columns = {"image": image_column} | ({"annotation": annotation_column} if annotation_column else {})
        self._has_path = has_path

    def __call__(self, batch: dict[str, np.ndarray], done: ray.ObjectRef | None = None) -> Iterator[pa.Table]:
        done_rows = None if done is None else ray.get(done)
        for file, group, before in zip(batch["file"], batch["group"], batch["before"], strict=True):
            yield from self.of_group({"file": str(file), "group": int(group), "before": int(before)}, done_rows)

    def of_group(self, group: dict[str, Any], done: DoneRows | None = None) -> Iterator[pa.Table]:
        """The rows of a group that are not done: `path`, `image`, `name`, `key` and, if asked for, `annotation`."""
        number = group["before"]
        columns = [*self._columns.values(), *(["path"] if self._has_path else [])]
        with self._file_system.open_input_file(group["file"]) as file:
            reader = pa.parquet.ParquetFile(file)
            for batch in reader.iter_batches(_ROWS_AT_ONCE, row_groups=[group["group"]], columns=columns):
                keys = [self.KEY.format(group["file"], row) for row in range(number, number + len(batch))]
                try:
                    batch.validate(full=True)
                except pa.ArrowInvalid as error:
                    raise InputError(
                        f"{group['file']}: broken from row {number} on, in the columns {', '.join(columns)}: {error}"
                    ) from error
                number += len(batch)
                table = self._named(batch, keys)
                yield table if done is None else table.filter(pa.array(~done.among(keys)))

    def _named(self, batch: pa.RecordBatch, keys: list[str]) -> pa.Table:
        images = batch.column(self._columns["image"]).to_pylist()
        paths: list[Any] = batch.column("path").to_pylist() if self._has_path else [None] * len(images)
        for row, image in enumerate(images):
            content = image
            if isinstance(image, dict):
                content = image.get("bytes")
                paths[row] = paths[row] or image.get("path")
            paths[row] = _text(paths[row])
            if not paths[row]:
                paths[row] = "image-" + hashlib.sha256(content or b"").hexdigest()[:16]
        columns: dict[str, Any] = {"path": pa.array(paths, pa.string())}
        columns |= {name: batch.column(column) for name, column in self._columns.items()}
        return pa.table(columns | {"name": [safe_name(path) for path in paths], "key": keys})


def _text(path: Any) -> str:
    """What stands in a column of paths, which may hold bytes or numbers, as text."""
    return readable(os.fsdecode(path)) if isinstance(path, bytes) else "" if path is None else str(path)


def _image_column(schema: pa.Schema, source: str) -> str:
    """The column called `image`, else the first one that can hold encoded images."""

    def holds_images(field: pa.Field) -> bool:
        kind = field.type
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    named = [field.name for field in schema if field.name == "image"]
    column = next(iter(named + [field.name for field in schema if holds_images(field)]), None)
    if column is None:
        raise InputError(
            f'{source}: no image column; expected one of encoded bytes or {{"bytes", "path"}}, found {schema.names}'
        )
    return column
