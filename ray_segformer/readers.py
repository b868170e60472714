"""Inputs of the command: a folder, a glob, a list file, an image or parquet, local or remote, as a dataset."""

from __future__ import annotations

import errno
import fnmatch
import glob
import hashlib
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import ray

from ray_segformer.air import installed
from ray_segformer.blocks import small_blocks
from ray_segformer.images import SUFFIXES
from ray_segformer.journal import DoneRows
from ray_segformer.names import readable, safe_name, unique_names

READING_CPUS = 0.25  # of a task that reads parquet, and mostly waits

_ROWS_AT_ONCE = 64  # of encoded images
_KEYS_AT_ONCE = 2**16
_LIST_SUFFIXES = (".txt", ".lst", ".list")


class InputError(ValueError):
    """An input that names no images; the message says what was looked for, and where."""


@dataclass(frozen=True)
class ImageInput:
    """What an input names.

    Attributes:
        rows: how many images there are.
        dataset: makes the dataset of them, on Ray, without those that are done. Its rows have `path` (absolute, or a
            URI, as which `readable` gives a path that is no UTF-8), `image` (an image cell: the path, or encoded
            bytes), `name` (relative, without a suffix, unique among files: what an output file may be called), and
            `key` (what tells the row from every other, whatever the order).
        keys: of all rows, in any order.
        take: the first so many of these rows, without Ray.
    """

    rows: int
    dataset: Callable[..., ray.data.Dataset]
    keys: Callable[[], Iterator[str]]
    take: Callable[[int], list[dict[str, Any]]]


def find_images(source: str) -> ImageInput:
    """Find the images of an input, without reading them and without Ray.

    Args:
        source: a folder (searched recursively, through symbolic links, too, for files with an image's suffix), a glob,
            a text file with a path on each line (relative ones are relative to it), one image, or parquet (a file, or
            a folder of them) with an image column of encoded bytes or `{"bytes", "path"}`. Local, or a URI of
            pyarrow's file systems.

    Raises:
        InputError: there is nothing, or nothing with images, or a folder that may not be read.
    """
    file_system, path = _file_system(source)
    kind = _kind(file_system, path)
    if kind == pa.fs.FileType.NotFound and glob.has_magic(path):
        folder = _fixed_part(path)
        return _of_files(_glob(file_system, path, folder), folder, source, file_system)
    if kind == pa.fs.FileType.NotFound:
        raise InputError(f"{source}: no such file or folder")
    if kind == pa.fs.FileType.Unknown:
        raise InputError(f"{source} is a pipe or a device; expected a file or a folder")
    if kind == pa.fs.FileType.File:
        suffix = posixpath.splitext(path.lower())[1]
        if suffix == ".parquet":
            return _of_parquet(file_system, [path], source)
        if suffix in _LIST_SUFFIXES:
            paths = _listed(file_system, path)
            return _of_files(paths, _shared_folder(paths), source, file_system)
        if suffix in SUFFIXES:
            return _of_files([path], posixpath.dirname(path), source, file_system)
        raise InputError(
            f"{source}: expected an image, .parquet, or a list of paths ({', '.join(_LIST_SUFFIXES)}); "
            f"the suffix {suffix!r} is none of them"
        )
    files = _walk(file_system, path)
    images = [file for file in files if posixpath.splitext(file.lower())[1] in SUFFIXES]
    if images:
        return _of_files(images, path, source, file_system)
    return _of_parquet(file_system, [file for file in files if file.lower().endswith(".parquet")], source)


def find_parquet(source: str, image_column: str = "image", annotation_column: str = "annotation") -> ImageInput:
    """Find annotated images in parquet, without reading them and without Ray.

    Args:
        source: a parquet file or a folder of them, searched recursively; local, or a URI of pyarrow's file systems.
        image_column, annotation_column: columns of encoded bytes or `{"bytes", "path"}`, as Hugging Face writes them.

    Returns:
        Images as `find_images` has them, whose rows also have `annotation`.

    Raises:
        InputError: there is no parquet, or no such column.
    """
    file_system, path = _file_system(source)
    kind = _kind(file_system, path)
    if kind == pa.fs.FileType.NotFound:
        raise InputError(f"{source}: no such file or folder")
    files = [path] if kind == pa.fs.FileType.File else _walk(file_system, path)
    files = [file for file in files if file.lower().endswith(".parquet")]
    if not files:
        raise InputError(f"{source}: neither images/ and annotations/ nor parquet there")
    return _of_parquet(file_system, files, source, image_column, annotation_column)


def _file_system(source: str) -> tuple[pa.fs.FileSystem, str]:
    if "://" not in source:
        return pa.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(source))
    try:
        return pa.fs.FileSystem.from_uri(source)
    except (pa.ArrowInvalid, OSError, ImportError) as error:
        raise InputError(f"{source}: not a URI that pyarrow's file systems know: {error}") from error


def _kind(file_system: pa.fs.FileSystem, path: str) -> pa.fs.FileType:
    if not isinstance(file_system, pa.fs.LocalFileSystem):
        return file_system.get_file_info(path).type
    try:
        mode = os.stat(path).st_mode  # pyarrow would stop at a name that is no UTF-8
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return pa.fs.FileType.NotFound
    except OSError as error:
        raise InputError(f"{readable(path)}: cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return pa.fs.FileType.Directory
    return pa.fs.FileType.File if stat.S_ISREG(mode) else pa.fs.FileType.Unknown


def _walk(file_system: pa.fs.FileSystem, folder: str) -> list[str]:
    """The files below a folder. Of a local one, links that lead nowhere, too: they are missed when they are read."""
    if isinstance(file_system, pa.fs.LocalFileSystem):
        return sorted(_walk_local(folder))
    infos = file_system.get_file_info(pa.fs.FileSelector(folder, recursive=True))
    return sorted(info.path for info in infos if info.type == pa.fs.FileType.File)


def _walk_local(root: str) -> Iterator[str]:
    """As pyarrow does, but with names that are no UTF-8, and into no folder from inside of itself."""
    folders = [(root, frozenset[tuple[int, int]]())]
    while folders:
        folder, above = folders.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        folders.append((entry.path, above | {identity}))
                    else:
                        yield entry.path
        except OSError as error:
            raise InputError(
                f"{readable(folder)}: this folder of the input cannot be read: {error.strerror}; "
                "make it readable, or leave it out"
            ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _fixed_part(pattern: str) -> str:
    """The folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def _glob(file_system: pa.fs.FileSystem, pattern: str, folder: str) -> list[str]:
    if isinstance(file_system, pa.fs.LocalFileSystem):
        return sorted(path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))
    return [path for path in _walk(file_system, folder) if fnmatch.fnmatch(path, pattern)]


def _listed(file_system: pa.fs.FileSystem, path: str) -> list[str]:
    is_local = isinstance(file_system, pa.fs.LocalFileSystem)
    with open(path, "rb") if is_local else file_system.open_input_file(path) as file:
        try:
            lines = file.read().decode("utf-8-sig").split("\n")  # nothing else ends a line: it may be in a name
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: a list file holds UTF-8 text: {error}") from error
    paths = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [line if "://" in line else posixpath.join(posixpath.dirname(path), line) for line in paths]


def _shared_folder(paths: list[str]) -> str:
    """The folder that all paths are below, or "" where they share none."""
    try:
        return posixpath.commonpath([posixpath.dirname(path) for path in paths])
    except ValueError:  # there are none, or relative ones among absolute ones
        return ""


def _of_files(paths: list[str], folder: str, source: str, file_system: pa.fs.FileSystem) -> ImageInput:
    if not paths:
        raise InputError(f"{source}: no images there (looked for {', '.join(sorted(SUFFIXES))})")
    if not isinstance(file_system, pa.fs.LocalFileSystem):
        scheme = source.split("://")[0]
        paths = [path if "://" in path else f"{scheme}://{path}" for path in paths]
    names = pa.array(unique_names(paths, folder))
    paths = [readable(path) for path in paths]
    column = pa.array(paths)
    keys_column = column if len(set(paths)) == len(paths) else pa.array(_numbered(paths))
    rows = pa.table({"path": column, "image": column, "name": names, "key": keys_column})

    def keys() -> Iterator[str]:
        """Those of all rows, of which millions are not to be text at the same time."""
        return (key for batch in rows.select(["key"]).to_batches(_KEYS_AT_ONCE) for key in batch.column(0).to_pylist())

    def dataset(done: DoneRows | None = None) -> ray.data.Dataset:
        """The rows that are not done."""
        return small_blocks(rows if done is None else rows.filter(pa.array(~done.among(keys()))))

    return ImageInput(len(rows), dataset, keys, lambda limit: rows.slice(0, limit).to_pylist())


def _numbered(paths: list[str]) -> list[str]:
    """The paths; of one that a list names again, with how often it was named before."""
    named = Counter[str]()
    keys = []
    for path in paths:
        keys.append(f"{path}#{named[path]}" if named[path] else path)
        named[path] += 1
    return keys


def _of_parquet(
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
