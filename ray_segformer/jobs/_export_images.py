"""Export images one by one: a task exports a shard and writes its record. Then all records make the joint files."""

from __future__ import annotations

import contextlib
import glob
import json
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from ray_segformer.air import installed
from ray_segformer.exports import ExportFormat, ExportImage
from ray_segformer.images import is_percent_encoded, local_path
from ray_segformer.inputs import (
    DIGEST,
    digests_of_names,
    file_name_of,
    fixed_part,
    is_among,
    key_of_part,
    name_of_part,
    readable,
    repeated,
    with_digest,
)
from ray_segformer.jobs._cluster import ENCODING_CPUS, where_to_run
from ray_segformer.jobs._progress import with_progress
from ray_segformer.outputs import MaskOutput, OutputFolder, Storage

RECORDS = ".records"  # the folder with the record of each exported shard, until the export is finished
_WRITERS = 16  # files that are written at the same time


def export_images(
    output: MaskOutput,
    shards: list[str],
    to_format: ExportFormat,
    folder: OutputFolder,
    *,
    is_local: bool,
    progress: bool,
) -> dict[str, int]:
    """Write the files of a format, and return how many `images` were exported, and how many `failures` have no mask.

    Args:
        output: the output of `predict`.
        shards: the names of its shards.
        to_format: the format.
        folder: where the files go. It may have those of an interrupted export.
        is_local: whether the output or the folder are on the driver's machine alone.
        progress: as for `export`.
    """
    where = where_to_run(ENCODING_CPUS, here=is_local)
    done = set(folder.storage.names(RECORDS))
    remaining = [shard for shard in shards if _record_of(shard) not in done]
    if remaining:
        write = _ExportShard(output, to_format, folder.storage, _Names(output, shards, where))
        rows = by_shard(remaining).map_batches(write, batch_size=1, **where).iter_rows()
        for _ in with_progress(rows, len(remaining), unit=" files of rows") if progress else rows:
            folder.lease.check()
    counts = [json.loads(next(_lines(folder.storage, shard))) for shard in shards]

    def records() -> Iterator[dict[str, Any]]:
        for shard in shards:
            lines = _lines(folder.storage, shard)
            next(lines)
            yield from map(json.loads, lines)

    for name, parts in to_format.joint_files(records):
        folder.lease.check()
        folder.storage.write_parts(name, parts)
    return {kind: sum(count[kind] for count in counts) for kind in ("images", "failures")}


def by_shard(shards: list[str]) -> ray.data.Dataset:
    """Return a dataset with one row, and so one task, for each shard: its name in the column `shard`."""
    return installed.from_items([{"shard": shard} for shard in shards], len(shards))


class _Names:
    """Names for the files of images: their paths in the input's tree, without suffix, and different.

    Args:
        output: the output.
        shards: its shards.
        where: options of the tasks that read the paths.
    """

    def __init__(self, output: MaskOutput, shards: list[str], where: dict[str, Any]) -> None:
        self._folder = ""
        self._place = [column.name for column in output.place_columns(shards[0]) if pa.types.is_integer(column.type)]

        def folders(batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
            return {"folder": np.array([_common_folder(output, shard) for shard in batch["shard"]])}

        rows = by_shard(shards).map_batches(folders, batch_size=1, **where).iter_rows()
        self._folder = _decoded(folder_of_input(output, {local_path(row["folder"]) for row in rows}))

        def digests(batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
            tables = (output.rows(shard, ["path", *self._place]) for shard in batch["shard"])
            parts = [digests_of_names(self._plain(table)) for table in tables]
            return {"digests": np.array([part.tobytes() for part in parts], object)}

        rows = by_shard(shards).map_batches(digests, batch_size=1, **where).iter_rows()
        self._repeated = repeated(np.frombuffer(b"".join(row["digests"] for row in rows), DIGEST))

    def of(self, table: pa.Table) -> list[str]:
        """Return the names of the rows of a table of an output."""
        names = self._plain(table)
        for place in np.flatnonzero(is_among(names, self._repeated)).tolist():
            row = table.slice(place, 1).to_pylist()[0]
            names[place] = with_digest(names[place], f"{row['path']}#{row['index']}")
        return names

    def relative(self, row: dict[str, Any]) -> str:
        """Return the path of a row relative to the input; of a part of a file, with its place there."""
        path = _decoded(row["path"])
        path = readable(path.removeprefix(f"{self._folder}/") if self._folder else path)
        return key_of_part(path, {name: row[name] for name in self._place}) if self._place else path

    def _plain(self, table: pa.Table) -> list[str]:
        names = [file_name_of(_decoded(path), self._folder) for path in table.column("path").to_pylist()]
        if not self._place:
            return names
        places = zip(*(table.column(name).to_pylist() for name in self._place), strict=True)
        return [name_of_part(name, place) for name, place in zip(names, places, strict=True)]


class _ExportShard:
    """Writes the files of a shard's images, and then the record that joint files are made from. For `map_batches`."""

    def __init__(self, output: MaskOutput, to_format: ExportFormat, storage: Storage, names: _Names) -> None:
        self._output, self._format, self._storage, self._names = output, to_format, storage, names

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Export the shards of a batch."""
        for shard in batch["shard"]:
            self._export(str(shard))
        return batch

    def _export(self, shard: str) -> None:
        table = self._output.rows(shard)
        lines, failures = list[str](), 0
        write = partial(self._storage.write, durable=False)
        with ThreadPoolExecutor(_WRITERS) as pool:
            for row, name in zip(table.to_pylist(), self._names.of(table), strict=True):
                mask = self._output.mask(row)
                if mask is None:
                    failures += 1
                    continue
                file_name = self._names.relative(row)
                image = ExportImage(
                    row["path"], file_name, name, row["index"], mask, row["class_ids"], row["class_pixels"]
                )
                files = self._format.files(image)
                list(pool.map(write, files, files.values()))
                lines.append(json.dumps(self._format.record(image)))
        self._storage.flush()
        lines.insert(0, json.dumps({"images": len(lines), "failures": failures}))
        self._storage.write(_record_of(shard), "\n".join(lines).encode())


def _decoded(path: str) -> str:
    """Return a URI without percent-encoding, for names as `predict` makes them, or a local path."""
    path = local_path(path)
    if "://" not in path or not is_percent_encoded(path):
        return path
    with contextlib.suppress(UnicodeDecodeError):  # of a name that is not UTF-8
        return unquote(path, errors="strict")
    return path


def _record_of(shard: str) -> str:
    """Return the name of the file with the record of a shard."""
    return f"{RECORDS}/{posixpath.basename(shard)}.jsonl"


def _lines(storage: Storage, shard: str) -> Iterator[str]:
    """Yield the lines of the record of a shard: first the counts, then a line for each image."""
    with storage.open(_record_of(shard)) as file:
        yield from file.read().decode().split("\n")


def _common_folder(output: MaskOutput, shard: str) -> str:
    """Return the deepest folder that all images of a shard are below."""
    paths = output.rows(shard, ["path"]).column("path").to_pylist()
    return readable(_deepest({posixpath.dirname(local_path(path)) for path in paths}))


def folder_of_input(output: MaskOutput, folders: set[str]) -> str:
    """Return the folder that names are relative to: the input's, if images are below it, else the deepest of all.

    Args:
        output: the output. Its input may be a path relative to a folder that is not known any more.
        folders: folders of images.
    """
    source, deepest = str(output.options["input"]), _deepest(folders)
    sources = [source, *([fixed_part(source)] if glob.has_magic(source) else [])]  # a folder may have such a name, too
    for each in sources:
        ending = "/" + (each if "://" in each else posixpath.normpath(each)).strip("/")
        folder = deepest
        while folder.strip("/") and not f"/{folder}".endswith(ending):
            folder = folder.rpartition("/")[0]
        if folder.strip("/"):
            return folder
    return deepest


def _deepest(folders: set[str]) -> str:
    """Return the deepest folder that others are in, or are; "" if there is none."""
    parts = [folder.split("/") for folder in folders]
    shared = 0
    while all(len(each) > shared and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return "/".join(parts[0][:shared])
