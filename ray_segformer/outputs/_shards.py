"""Shards: files of rows that workers write. A job that resumes reads from them which rows are done."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from ray_segformer import _stage_times as stage_times
from ray_segformer.images import cause_of
from ray_segformer.inputs import DIGEST, DIGEST_BYTES, DoneRows, digests_of, digests_of_names
from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._mask_rows import ClassAreas, schema_of
from ray_segformer.outputs._storage import Storage

# In a file's metadata: digests of the keys of its rows; and of the names of their files, if there are any; and counts.
_KEYS, _NAMES, _COUNTS = b"ray_segformer_keys", b"ray_segformer_names", b"ray_segformer_counts"
_FOLDERS = {"mask": "masks", "confidence": "confidence"}  # of the PNG files that these columns name
_READERS = _WRITERS = 16  # files that are read or written at the same time: each waits for the storage
_MOST_BYTES = 2**27  # of images in a shard


class WriteShards:
    """Writes each batch as a shard, and its images as files. For `map_batches`; returns a row for each shard.

    Batches are tables of `EncodeMasks`. The files of the rows are written before their shard, so each file that a shard
    names exists. The name of a shard has its first row's `index`, so that names sort as the input, and a digest of the
    keys. So writing is idempotent: a repeated task writes the same files again. A shard's metadata hold the digests of
    the keys and the counts. A job that resumes reads only these.

        masks/part-*.parquet        the rows; with PNG files, rows/part-*.parquet
        masks/*.png                 with the format "png"
        confidence/*.png            with the format "png", if there is confidence
        overlays/*.jpg              of rows with an overlay

    A row of the result has one column, `shard`: JSON with `name`, `rows`, `causes` (of the rows that failed, how many
    by cause), `areas` (see `ClassAreas`), and `seconds` (to write it).

    Args:
        storage: the output.
        mask_format, confidence, columns: as for `schema_of`.
    """

    def __init__(
        self, storage: Storage, mask_format: str, *, confidence: bool = False, columns: Iterable[pa.Field] = ()
    ) -> None:
        self._storage = storage
        self._folder = folder_of_shards(mask_format)
        self._schema = schema_of(mask_format, confidence=confidence, columns=columns)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Write a batch, as several shards if its images are large.

        Raises:
            OutputError: the storage cannot be written.
        """
        with stage_times.reported(), stage_times.timed("write", len(batch)):
            reports = [json.dumps(self._write(table)) for table in _parts(batch) if len(table)]
        return pa.table({"shard": pa.array(reports, pa.string())})

    def _write(self, table: pa.Table) -> dict[str, Any]:
        started = time.perf_counter()
        keys = _packed(digests_of(table.column("key").to_pylist()))
        areas = ClassAreas()
        areas.add(table)
        causes = Counter(cause_of(error) for error in table.column("error").to_pylist() if error is not None)
        counts = {"rows": len(table), "causes": dict(causes), "areas": areas.as_lists()}
        metadata = {_KEYS: keys, _COUNTS: json.dumps(counts).encode()}
        if "mask" in self._schema.names or table.column("overlay").null_count < len(table):
            metadata[_NAMES] = _packed(digests_of_names(table.column("name").to_pylist()))
        table = self._with_files(table)
        first = table.column("index")[0].as_py()
        name = f"{self._folder}/part-{first:010d}-{hashlib.sha256(keys).hexdigest()[:12]}.parquet"
        rows = table.select(self._schema.names).cast(self._schema).replace_schema_metadata(metadata)
        self._storage.write(name, _parquet(rows))
        return {"name": name, **counts, "seconds": round(time.perf_counter() - started, 3)}

    def _with_files(self, table: pa.Table) -> pa.Table:
        """Write the images of a table that go to files, and return the table with their paths instead."""
        files = {"overlay": ("overlay", "overlays", "jpg")}
        if "mask" in self._schema.names:
            files["segmentation"] = ("mask", _FOLDERS["mask"], "png")
        if self._schema.get_field_index("confidence") >= 0 and "mask" in self._schema.names:
            files["confidence"] = ("confidence", _FOLDERS["confidence"], "png")
        contents: dict[str, pa.Buffer] = {}
        names = table.column("name").to_pylist()
        for column, (path_column, folder, suffix) in files.items():
            paths: list[str | None] = []
            for name, image in zip(names, table.column(column), strict=True):
                path = f"{folder}/{name}.{suffix}" if image.is_valid else None
                paths.append(path)
                if path is not None:
                    contents[path] = image.as_buffer()
            table = table.drop([column]).append_column(path_column, pa.array(paths, pa.string()))
        if contents:
            with ThreadPoolExecutor(_WRITERS) as pool:
                list(pool.map(partial(self._storage.write, durable=False), contents, contents.values()))
            self._storage.flush()
        return table


class Shards:
    """The shards of a job, as its driver knows them: those that it found when it resumed, and those reported since.

    Each row is in one of them. `settle` deletes all other shards in the folder, because they hold duplicates. A task
    that was declared dead, or a task of a dead driver, may have written one later. The listing of a store may also lag
    behind: the rows of a shard that it misses are predicted again, and the shard is deleted in the end.

    A reader sees whole shards while a job runs, and each row once, except for these duplicates.

    Args:
        storage, mask_format: as for `WriteShards`.

    Attributes:
        rows: the number of rows in all shards.
        causes: how many of these failed, by cause.
        areas: the areas of the classes.
    """

    def __init__(self, storage: Storage, mask_format: str) -> None:
        self._storage = storage
        self._folder = folder_of_shards(mask_format)
        self._names: set[str] = set()
        self.rows, self.causes, self.areas = 0, Counter[str](), ClassAreas()

    @property
    def count(self) -> int:
        """The number of shards."""
        return len(self._names)

    def find(self, *, with_files: bool = False) -> DoneRows:
        """Find the shards that earlier jobs wrote, and return their rows.

        If two shards have a row in common, the second is deleted, and its other rows are done again. Only a job that
        lost its lease can leave such shards; see `Lease`.

        Args:
            with_files: also delete shards of which a PNG file is missing. This lists all files. A shard is written
                after its files, so a missing file was deleted by somebody else. Default: False.

        Raises:
            OutputError: a shard cannot be read.
        """
        names = shards_in(self._storage, self._folder)
        with ThreadPoolExecutor(_READERS) as pool:
            if with_files and self._folder != folder_of_shards("parquet"):
                # Digests, because there may be millions of files.
                files = DoneRows(
                    digests_of(file for folder in _FOLDERS.values() for file in self._storage.names(folder))
                )
                complete = list(pool.map(partial(self._has_files, files), names))
                self._storage.delete(name for name, has_files in zip(names, complete, strict=True) if not has_files)
                names = [name for name, has_files in zip(names, complete, strict=True) if has_files]
            found = list(pool.map(self._read, names))
        kept, of_files = [np.empty(0, DIGEST)], [np.empty(0, DIGEST)]
        is_first = _first_occurrences([digests for digests, _, _ in found])
        for name, (digests, files_of_rows, counts), whole in zip(names, found, is_first, strict=True):
            if not whole:
                self._storage.delete([name])
                continue
            kept.append(digests)
            of_files.append(files_of_rows)
            self.add({"name": name, **counts})
        return DoneRows(np.concatenate(kept), np.concatenate(of_files))

    def add(self, shard: dict[str, Any]) -> None:
        """Add a shard that a worker reported."""
        if shard["name"] in self._names:
            return
        self._names.add(shard["name"])
        self.rows += shard["rows"]
        self.causes.update(shard["causes"])
        self.areas.add_lists(shard["areas"])

    def settle(self) -> None:
        """Delete the shards that no task reported, and those that are not whole."""
        unknown = {*self._storage.names(self._folder, whole=False)} - self._names
        self._storage.delete(name for name in unknown if name.endswith(".parquet"))

    def _read(self, name: str) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.bytes_], dict[str, Any]]:
        """Return the digests of the keys of a shard, those of the names of its files, and its counts."""
        with self._opened(name) as file:
            metadata = pa.parquet.read_metadata(file).metadata or {}
            keys, names = (
                np.frombuffer(base64.b64decode(part), DIGEST) for part in (metadata[_KEYS], metadata.get(_NAMES, b""))
            )
            return keys, names, json.loads(metadata[_COUNTS])

    def _has_files(self, there: DoneRows, name: str) -> bool:
        """Return whether the PNG files that a shard names are all among those that are there."""
        with self._opened(name) as file:
            reader = pa.parquet.ParquetFile(file)
            table = reader.read([column for column in _FOLDERS if column in reader.schema_arrow.names])
        paths = [path for column in table.columns for path in column.to_pylist() if path is not None]
        return bool(there.among(paths).all())

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        try:
            with self._storage.open(name) as file:
                yield file
        except (KeyError, OSError, ValueError, pa.ArrowException) as error:
            raise OutputError(
                f"{self._storage.describe(name)}: cannot read what the earlier run wrote: {error}; delete the file to "
                "do its images again, or start again with --overwrite"
            ) from error


def folder_of_shards(mask_format: str) -> str:
    """Return the folder of the shards in an output: beside PNG files, rows have a folder of their own."""
    return "masks" if mask_format == "parquet" else "rows"


def shards_in(storage: Storage, folder: str) -> list[str]:
    """Return the names of the shards in a folder of an output, in the order of the input."""
    return [name for name in storage.names(folder) if name.endswith(".parquet")]


def _first_occurrences(groups: list[npt.NDArray[np.bytes_]]) -> Iterable[bool]:
    """Return for each group whether none of its digests is in an earlier group that was kept."""
    if not groups:
        return []
    _, counts = np.unique(np.concatenate(groups), return_counts=True)
    if counts.max(initial=1) == 1:  # the usual case
        return [True] * len(groups)
    seen, kept = set[bytes](), []
    for group in groups:
        keys = group.tolist()
        kept.append(seen.isdisjoint(keys))
        if kept[-1]:
            seen.update(keys)
    return kept


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """Yield a table in parts whose images have at most 128 MiB, or which have one row."""
    if table.nbytes <= _MOST_BYTES or len(table) == 1:
        yield table
        return
    half = len(table) // 2
    yield from _parts(table.slice(0, half))
    yield from _parts(table.slice(half))


def _packed(digests: npt.NDArray[np.bytes_]) -> bytes:
    """Return digests one after the other, in base64."""
    return base64.b64encode(b"".join(digest.ljust(DIGEST_BYTES, b"\0") for digest in digests.tolist()))  # NumPy drops 0


def _parquet(table: pa.Table) -> pa.Buffer:
    """Return a table as the bytes of a parquet file."""
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    return sink.getvalue()
