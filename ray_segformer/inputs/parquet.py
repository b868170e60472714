"""Images in the rows of parquet files. A task reads one row group."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import ray

from ray_segformer.air import installed
from ray_segformer.images import SUFFIXES
from ray_segformer.inputs.image_input import ImageInput, InputError
from ray_segformer.inputs.paths import readable, safe_name
from ray_segformer.inputs.row_keys import DoneRows

READING_CPUS = 0.25  # of a task that reads parquet: it mostly waits
_ROWS_PER_BATCH = 64


def images_in_parquet(
    file_system: pa.fs.FileSystem,
    files: list[str],
    source: str,
    image_column: str | None = None,
    annotation_column: str | None = None,
) -> ImageInput:
    """Return the images in parquet files.

    Args:
        file_system, files: where the files are.
        source: the input as the user named it, for error messages.
        image_column: None for the column `image`, else the first column that can hold encoded images.
        annotation_column: None for no annotations.

    Raises:
        InputError: there are no files or no rows, or a column is missing, or the name of a file is not UTF-8.
    """
    if not files:
        raise InputError(f"{source}: neither images nor parquet there (looked for {', '.join(sorted(SUFFIXES))})")
    for file in files:
        if readable(file) != file:
            raise InputError(f"{readable(file)}: the name of a parquet file must be UTF-8; rename it")
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
        """Return the rows that are not done, which tasks read."""
        options: dict[str, Any] = {"fn_kwargs": {"done": ray.put(done)}} if done is not None else {}
        # A task reads one row group. The next stage wants batches of many rows, and Ray Data must not fuse the two:
        # it does not where they reserve different CPUs.
        groups_dataset = installed.from_items(groups, len(groups))
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

    return ImageInput(rows, dataset, keys, take)


def _row_groups(file_system: pa.fs.FileSystem, files: list[str]) -> list[dict[str, Any]]:
    """Return the row groups of parquet files.

    Each has its `file`, its number in the file (`group`), its number of `rows`, and the number of rows of the file that
    are `before` it.
    """
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
    """Reads row groups, a few rows at a time, as rows of an `ImageInput`. For `map_batches`.

    Not every version of Ray's own `read_parquet` tells the number of a row in its file, which the key needs. A row
    without a path gets one from a hash of its bytes.
    """

    def __init__(
        self, file_system: pa.fs.FileSystem, image_column: str, annotation_column: str | None, has_path: bool
    ) -> None:
        self._file_system = file_system
        self._columns = {"image": image_column} | ({"annotation": annotation_column} if annotation_column else {})
        self._has_path = has_path

    def __call__(
        self, batch: dict[str, npt.NDArray[Any]], done: ray.ObjectRef[DoneRows] | None = None
    ) -> Iterator[pa.Table]:
        done_rows = None if done is None else ray.get(done)
        for file, group, before in zip(batch["file"], batch["group"], batch["before"], strict=True):
            yield from self.of_group({"file": str(file), "group": int(group), "before": int(before)}, done_rows)

    def of_group(self, group: dict[str, Any], done: DoneRows | None = None) -> Iterator[pa.Table]:
        """Yield the rows of a row group that are not done, in tables.

        Their columns are `path`, `image`, `name` and `key`, and `annotation` if there is an annotation column.
        """
        number = group["before"]
        columns = [*self._columns.values(), *(["path"] if self._has_path else [])]
        with self._file_system.open_input_file(group["file"]) as file:
            reader = pa.parquet.ParquetFile(file)
            for batch in reader.iter_batches(_ROWS_PER_BATCH, row_groups=[group["group"]], columns=columns):
                keys = [_key(group["file"], row) for row in range(number, number + len(batch))]
                try:
                    batch.validate(full=True)
                except pa.ArrowInvalid as error:
                    raise InputError(
                        f"{group['file']}: broken from row {number} on, in the columns {', '.join(columns)}: {error}"
                    ) from error
                number += len(batch)
                table = self._as_rows(batch, keys)
                yield table if done is None else table.filter(pa.array(~done.among(keys)))

    def _as_rows(self, batch: pa.RecordBatch, keys: list[str]) -> pa.Table:
        images = batch.column(self._columns["image"]).to_pylist()
        paths: list[Any] = batch.column("path").to_pylist() if self._has_path else [None] * len(images)
        for row, image in enumerate(images):
            content = image
            if isinstance(image, dict):
                content = image.get("bytes")
                paths[row] = paths[row] or image.get("path")
            paths[row] = _as_text(paths[row])
            if not paths[row]:
                paths[row] = "image-" + hashlib.sha256(content or b"").hexdigest()[:16]
        columns: dict[str, Any] = {"path": pa.array(paths, pa.string())}
        columns |= {name: batch.column(column) for name, column in self._columns.items()}
        return pa.table(columns | {"name": [safe_name(path) for path in paths], "key": keys})


def _key(file: str, row: int) -> str:
    """Return the key of a row: its file, and its number in that file."""
    return f"{file}#{row}"


def _as_text(path: Any) -> str:
    """Return a value of a `path` column as text. Such a column may hold bytes or numbers; null gives ""."""
    if path is None:
        return ""
    return readable(os.fsdecode(path)) if isinstance(path, bytes) else str(path)


def _image_column(schema: pa.Schema, source: str) -> str:
    """Return the name of the column `image`, else of the first column that can hold encoded images."""
    if "image" in schema.names:
        return "image"
    for field in schema:
        kind = field.type
        is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return str(field.name)
    raise InputError(
        f'{source}: no image column; expected a column of encoded bytes or {{"bytes", "path"}}, found {schema.names}'
    )
