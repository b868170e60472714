"""Export all images that are parts of a file together: a task makes one file, such as a video of its frames."""

from __future__ import annotations

import heapq
import json
import os
import posixpath
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from ray_segformer.air import installed
from ray_segformer.exports import ExportError, SourceError, SourceFormat, SourcePart
from ray_segformer.images import local_path
from ray_segformer.inputs import digests_of, unique_names
from ray_segformer.jobs._cluster import ENCODING_CPUS, where_to_run
from ray_segformer.jobs._export_images import RECORDS, by_shard, folder_of_input
from ray_segformer.jobs._progress import with_progress
from ray_segformer.outputs import MaskOutput, OutputFolder, Storage

_COPIED_BYTES = 2**20


def export_sources(
    output: MaskOutput,
    shards: list[str],
    to_format: SourceFormat,
    folder: OutputFolder,
    *,
    is_local: bool,
    progress: bool,
) -> dict[str, int]:
    """Write a file for each file of the input. Arguments and result are those of `export_images`, and the `files`.

    Raises:
        ExportError: a file of the input is of another kind than the format needs.
        SourceError: files of the input cannot be read any more. The files of all others are written.
    """
    columns = [name for name in to_format.columns if name in output.place_columns(shards[0]).names]
    sources = _sources(output, shards, columns, where_to_run(ENCODING_CPUS, here=is_local))
    paths = sorted(sources)
    for path in paths:
        if to_format.suffixes and posixpath.splitext(path.lower())[1] not in to_format.suffixes:
            raise ExportError(f"{path}: the format needs {to_format.kind}, and this is none")
    plain = [local_path(path) for path in paths]
    names = unique_names(plain, folder_of_input(output, {posixpath.dirname(path) for path in plain}), paths)
    remaining = []
    for path, name in zip(paths, names, strict=True):
        source = {"path": path, "name": name, "rows": json.dumps(sources[path])}
        if folder.storage.read(_record_of(name)) != source["rows"].encode():  # or others have come since
            remaining.append(source)
    if remaining:
        write = _ExportSource(output, to_format, columns, folder.storage)
        tasks = installed.from_items(remaining, len(remaining))
        where = where_to_run(1, here=is_local or any("://" not in path for path in paths))
        written = tasks.map_batches(write, batch_size=1, **where).iter_rows()
        errors = []
        for row in with_progress(written, len(remaining), unit=" files") if progress else written:
            errors += [row["error"]] if row["error"] else []
            folder.lease.check()
        if errors:
            others = f" {len(errors) - 1} more files have such errors." if len(errors) > 1 else ""
            raise SourceError(
                f"{errors[0]}.{others} This format needs the files of the input. All others are exported, but the "
                "export is not finished; put the missing files back, and go on with --resume"
            )
    counts = {kind: sum(source[kind] for source in sources.values()) for kind in ("images", "failures")}
    return {"files": sum(bool(source["shards"]) for source in sources.values()), **counts}


def _sources(
    output: MaskOutput, shards: list[str], columns: Sequence[str], where: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return what there is of each file of the input, by its path.

    `images` and `failures` are the numbers of rows with a mask and without. `shards` are the shards with masks of the
    file, each with the place of its first mask, in ascending order.
    """

    def look(batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        found = []
        for shard in batch["shard"]:
            counts: dict[str, dict[str, Any]] = {}
            for row in output.rows(shard, ["path", "error", *columns]).to_pylist():
                count = counts.setdefault(row["path"], {"images": 0, "failures": 0, "first": None})
                if row["error"] is None:
                    place = [row[name] for name in columns]
                    count["first"] = min(place, count["first"] or place)
                count["images" if row["error"] is None else "failures"] += 1
            found.append(json.dumps(counts))
        return {"shard": batch["shard"], "counts": np.array(found, object)}

    sources: dict[str, dict[str, Any]] = defaultdict(lambda: {"images": 0, "failures": 0, "shards": []})
    for row in by_shard(shards).map_batches(look, batch_size=1, **where).iter_rows():
        for path, count in json.loads(row["counts"]).items():
            sources[path]["images"] += count["images"]
            sources[path]["failures"] += count["failures"]
            if count["first"] is not None:
                sources[path]["shards"].append([count["first"], str(row["shard"])])
    for source in sources.values():
        source["shards"].sort()
    return sources


class _ExportSource:
    """Writes the file of a file of the input. For `map_batches`."""

    def __init__(self, output: MaskOutput, to_format: SourceFormat, columns: Sequence[str], storage: Storage) -> None:
        self._output, self._format, self._columns, self._storage = output, to_format, columns, storage

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Export the files of a batch."""
        errors = []
        for path, name, rows in zip(batch["path"], batch["name"], batch["rows"], strict=True):
            shards, error = json.loads(rows)["shards"], ""
            try:
                if shards:
                    self._export(str(path), str(name), shards)
                self._storage.write(_record_of(name), rows.encode())
            except ExportError as problem:  # of this file alone
                error = str(problem)
            errors.append(error)
        return {"error": np.array(errors, object)}

    def _export(self, path: str, name: str, shards: list[tuple[list[Any], str]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, f"file{self._format.suffix}")
            self._format.write(self._output.cell_of(path), self._parts(path, shards), file)
            self._storage.write_parts(name + self._format.suffix, _content(file))

    def _parts(self, path: str, shards: list[tuple[list[Any], str]]) -> Iterator[SourcePart]:
        """Yield the images of a file that have a mask, each once, in the order of their places.

        A resumed run wrote the rows that an earlier run had left out, so places of several shards may alternate. The
        shards are merged. Each is opened when its first row is due.
        """
        heap: list[tuple[list[Any], str, Iterator[dict[str, Any]] | None, dict[str, Any]]]
        heap = [(first, shard, None, {}) for first, shard in shards]
        last = None
        while heap:
            place, shard, rows, row = heapq.heappop(heap)
            if rows is None:
                rows = self._rows(path, shard)
            elif place != last and (mask := self._output.mask(row)) is not None:
                last = place
                yield SourcePart(dict(zip(self._columns, place, strict=True)), mask)
            following = next(rows, None)
            if following is not None:
                heapq.heappush(heap, ([following[name] for name in self._columns], shard, rows, following))

    def _rows(self, path: str, shard: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a shard that have a mask and belong to an input file, in the order of their places."""
        table = self._output.rows(shard)
        has_mask = pa.compute.is_null(table.column("error"))
        table = table.filter(pa.compute.and_(pa.compute.equal(table.column("path"), path), has_mask))
        table = table.sort_by([(name, "ascending") for name in (self._columns or ["index"])])
        for batch in table.to_batches(1):
            yield from batch.to_pylist()


def _record_of(name: str) -> str:
    """Return the name of the file that says what a written file is made of."""
    return f"{RECORDS}/{digests_of([name])[0].hex()}.json"


def _content(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while part := file.read(_COPIED_BYTES):
            yield part
