"""Images in the rows of parquet files. A task reads one row group."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import ray

from ray_segformer._guesses import Guess
from ray_segformer.air import installed
from ray_segformer.images import SUFFIXES, retried
from ray_segformer.inputs._blocks import spread
from ray_segformer.inputs._image_input import ImageInput, InputError
from ray_segformer.inputs._location import Location
from ray_segformer.inputs._output_names import digests_of_names, is_among, name_of, repeated, with_digest
from ray_segformer.inputs._parquet_columns import CellColumn, as_text, check_column, image_column_of, path_columns
from ray_segformer.inputs._paths import readable
from ray_segformer.inputs._row_keys import DIGEST, DoneRows

READING_CPUS = 0.25
"""Reserved by a task that reads parquet: it mostly waits."""

_ROWS_PER_BATCH = 64
_SAMPLED_GROUPS = 32
_NUMBERS = ("group", "rows", "before", "index")  # of a row group


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
        guesses: the warnings about the input so far.

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
    groups, mixed = _row_groups(location, files, list(columns.values()))
    rows = sum(group["rows"] for group in groups)
    if rows == 0:
        raise InputError(f"{shown}: no rows")
    read = _ParquetRows(location, columns, mixed)

    def dataset(
        done: DoneRows | None = None, sample: int | None = None, distinct_names: bool = False
    ) -> ray.data.Dataset:
        """Return the rows that are not done, or a sample, which tasks read."""
        read_groups = groups if sample is None else _sampled(groups, sample)
        arguments: dict[str, Any] = {} if done is None else {"done": ray.put(done)}
        if distinct_names:
            arguments["repeated_names"] = ray.put(_repeated_names(groups, read))
        options: dict[str, Any] = {"fn_kwargs": arguments} if arguments else {}
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

    return ImageInput(rows, dataset, keys, take, location.file(files[0]).cell, said)


def _sampled(groups: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the first rows of some row groups, spread over all: about `count` rows together.

    To read few rows of each group would read all files: a group's columns are read as a whole.
    """
    rows = sum(group["rows"] for group in groups)
    chosen = spread(len(groups), max(_SAMPLED_GROUPS, math.ceil(count * len(groups) / rows)))
    each = math.ceil(count / len(chosen))
    return [{**groups[place], "rows": min(groups[place]["rows"], each)} for place in chosen]


def _row_groups(
    location: Location, files: list[str], columns: list[str]
) -> tuple[list[dict[str, Any]], frozenset[str]]:
    """Return the row groups of parquet files, and those of the columns that have different types in different files.

    A row group has its `file`, its number in the file (`group`), its number of `rows`, the number of rows of the file
    that are `before` it, and its first row's place in the input (`index`).

    Raises:
        InputError: a file is not parquet, or lacks one of the columns, or the column is of a wrong type.
    """
    groups, index = [], 0
    types: dict[str, set[pa.DataType]] = {column: set() for column in columns}
    for file in files:
        metadata = _metadata_of(location, file)
        schema = metadata.schema.to_arrow_schema()
        for column in columns:
            check_column(schema, column, location.file(file).path)
            types[column].add(schema.field(column).type)
        before = 0
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            groups.append({"file": file, "group": number, "rows": rows, "before": before, "index": index})
            before += rows
            index += rows
    return groups, frozenset(column for column in columns if len(types[column]) > 1)


def _metadata_of(location: Location, file: str) -> pa.parquet.FileMetaData:
    try:
        return retried(functools.partial(pa.parquet.read_metadata, filesystem=location.file_system), file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{location.file(file).path}: cannot be read as parquet: {error}") from error


def _repeated_names(groups: list[dict[str, Any]], read: _ParquetRows) -> npt.NDArray[np.bytes_]:
    """Return the digests of the names that several rows have. Tasks read the paths, and no images."""

    def digests(batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        found = [digests_of_names(read.names_of_group(group)) for group in _groups_in(batch)]
        return {"digests": np.array([part.tobytes() for part in found], object)}

    rows = installed.from_items(groups, len(groups)).map_batches(digests, batch_size=1, num_cpus=READING_CPUS)
    return repeated(np.frombuffer(b"".join(row["digests"] for row in rows.iter_rows()), DIGEST))


def _groups_in(batch: dict[str, npt.NDArray[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the row groups of a batch."""
    for file, *numbers in zip(batch["file"], *(batch[name] for name in _NUMBERS), strict=True):
        yield {"file": str(file), **dict(zip(_NUMBERS, map(int, numbers), strict=True))}


class _ParquetRows:
    """Reads row groups, a few rows at a time, as rows of an `ImageInput`. For `map_batches`.

    Not every version of Ray's own `read_parquet` tells the number of a row in its file, which the key needs. A row
    without a path gets one from a hash of its bytes; without bytes, too, its place.
    """

    def __init__(self, location: Location, columns: dict[str, str], mixed: frozenset[str]) -> None:
        self._location, self._mixed = location, mixed
        self._columns = columns  # the columns of rows, and those of files

    def __call__(
        self,
        batch: dict[str, npt.NDArray[Any]],
        done: ray.ObjectRef[DoneRows] | None = None,
        repeated_names: ray.ObjectRef[npt.NDArray[np.bytes_]] | None = None,
    ) -> Iterator[pa.Table]:
        done_rows = None if done is None else ray.get(done)
        not_unique = None if repeated_names is None else ray.get(repeated_names)
        for group in _groups_in(batch):
            for table in self.of_group(group, done_rows):
                yield table if not_unique is None else _with_unique_names(table, not_unique)

    def of_group(self, group: dict[str, Any], done: DoneRows | None = None) -> Iterator[pa.Table]:
        """Yield the first `rows` of a row group, without those that are done, in tables.

        Their columns are those of an `ImageInput`, and `annotation` if there is an annotation column.
        """
        with self._opened(group) as reader:
            columns = list(self._columns.values()) + self._path_column(reader)
            for batch, number in _batches(reader, group, columns):
                table = self._as_rows(batch, group, number)
                yield table if done is None else table.filter(pa.array(~done.among(table.column("key").to_pylist())))

    def names_of_group(self, group: dict[str, Any]) -> list[str]:
        """Return the names that the rows of a row group can have, of those with a path. Images are not read.

        A row may have several: whether the path of an image or the column `path` counts, depends on its bytes.
        """
        names: list[str] = []
        with self._opened(group) as reader:
            of_image = path_columns(reader.schema_arrow, self._columns["image"])
            columns = of_image + self._path_column(reader)
            for batch, _ in _batches(reader, group, columns) if columns else ():
                found: list[list[Any]] = [self._paths(batch)]
                if of_image:
                    image = batch.column(self._columns["image"])
                    cells = CellColumn(image, self._location.at(group["file"]))
                    found += [cells.labels, cells.written]
                for texts in zip(*found, strict=True):
                    names += {name_of(text) for text in texts if text}
        return names

    @contextlib.contextmanager
    def _opened(self, group: dict[str, Any]) -> Iterator[pa.parquet.ParquetFile]:
        with self._location.file_system.open_input_file(group["file"]) as file:
            yield pa.parquet.ParquetFile(file)

    def _path_column(self, reader: pa.parquet.ParquetFile) -> list[str]:
        return ["path"] if "path" in reader.schema_arrow.names and "path" not in self._columns.values() else []

    def _paths(self, batch: pa.RecordBatch) -> list[str]:
        """Return the values of the column `path`, as text; "" where there is none."""
        if "path" not in batch.schema.names or "path" in self._columns.values():
            return [""] * len(batch)
        return [as_text(path) for path in batch.column("path").to_pylist()]

    def _as_rows(self, batch: pa.RecordBatch, group: dict[str, Any], number: int) -> pa.Table:
        location = self._location.at(group["file"])
        cells = {
            name: CellColumn(batch.column(column), location, as_struct=column in self._mixed)
            for name, column in self._columns.items()
        }
        images, paths, names = cells["image"], self._paths(batch), list[str]()
        first = group["index"] + number - group["before"]
        for row, (content, label, file) in enumerate(zip(images.contents, images.labels, images.files, strict=True)):
            paths[row] = paths[row] if file is None else file.path  # the image may be in a file of its own
            paths[row] = paths[row] or label or ""
            if paths[row]:
                names.append(name_of(paths[row] if file is None else images.written[row] or ""))
            elif content:
                paths[row] = "image-" + hashlib.sha256(content).hexdigest()[:16]
                names.append(f"{paths[row]}-{first + row}")
            else:
                paths[row] = _key(location.file(location.path).path, number + row)
                names.append(f"image-{first + row}")
        columns = {"path": pa.array(paths, pa.string()), "index": pa.array(np.arange(first, first + len(batch)))}
        columns |= {name: column.array for name, column in cells.items()}
        keys = [_key(group["file"], row) for row in range(number, number + len(batch))]
        return pa.table({**columns, "name": pa.array(names, pa.string()), "key": keys})


def _batches(
    reader: pa.parquet.ParquetFile, group: dict[str, Any], columns: list[str]
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yield the first `rows` of a row group, a few at a time, and the number in the file of the first of them.

    Raises:
        InputError: the file is broken there.
    """
    number, end = group["before"], group["before"] + group["rows"]
    for rows in reader.iter_batches(_ROWS_PER_BATCH, row_groups=[group["group"]], columns=columns):
        batch = rows.slice(0, end - number)
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{group['file']}: broken from row {number} on, in the columns {', '.join(columns)}: {error}"
            ) from error
        yield batch, number
        number += len(batch)
        if number == end:
            break


def _with_unique_names(table: pa.Table, not_unique: npt.NDArray[np.bytes_]) -> pa.Table:
    """Return rows with a digest of the key in those names that other rows have, too."""
    names, keys = table.column("name").to_pylist(), table.column("key").to_pylist()
    for place in np.flatnonzero(is_among(names, not_unique)):
        names[place] = with_digest(names[place], keys[place])
    return table.set_column(table.schema.get_field_index("name"), "name", pa.array(names, pa.string()))


def _key(file: str, row: int) -> str:
    """Return the key of a row: its file, and its number in that file."""
    return f"{file}#{row}"
