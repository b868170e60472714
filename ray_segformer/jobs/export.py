"""Exports as a job: turn an output of `predict` into the files of another program."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from ray_segformer.air import installed
from ray_segformer.exports import FORMATS, ExportFormat, ExportImage
from ray_segformer.guesses import say
from ray_segformer.inputs import DIGEST, digests_of_names, file_name_of, is_among, repeated, with_digest
from ray_segformer.jobs.cluster import ENCODING_CPUS, start_ray
from ray_segformer.jobs.progress import with_progress
from ray_segformer.outputs import LocalStorage, MaskOutput, OutputError, OutputFolder, Storage

_RECORDS = "records"  # the folder of what tasks say of each shard, until the export is finished
_WRITERS = 16  # files that are written at the same time


def export(
    source: str,
    destination: str,
    file_format: str,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Export an output of `predict`, as `ray-segformer export` does.

    It uses the Ray that is running, and calls `start_ray` if none is. Tasks read and write; a local folder is read and
    written on this machine alone.

    Args:
        source: the output of `predict`: a path or a URI. It may be unfinished: then the images so far are exported.
        destination: the folder to make: a path or a URI. It gets the files of the format, `classes.json`, and
            `export.json`, which is written last.
        file_format: one of `ray_segformer.exports.FORMATS`.
        overwrite: delete an earlier export first. Default: False.
        resume: continue an interrupted export of the same source and options, if there is one. Default: False.
        progress: whether to show a progress bar on stderr. Default: True.
        options: of the format, such as `panoptic` of `Coco`.

    Returns:
        The content of `export.json`: `images`, how many were exported; `failures`, how many have no mask, and are left
        out; `source_finished`; `warnings` (what the format guessed: `code`, `message`, `rows`); and `options`.

    Raises:
        ExportError: the format cannot hold the classes, or needs a package that is not installed.
        OutputError: the source is no output of `predict`, or the destination cannot be written.
    """
    output = MaskOutput(source)
    to_format = FORMATS[file_format](output.id2label, **options)
    used = {"source": output.storage.shown, "format": file_format, **options}
    folder = OutputFolder(destination, overwrite=overwrite, resume=resume, options=used, summary_name="export.json")
    with folder:
        if folder.finished is not None:
            return folder.finished
        shards = output.shards()
        if not shards:
            raise OutputError(f"{output.storage.shown}: no images there yet")
        say(to_format.guesses)
        if not ray.is_initialized():
            start_ray()
        folder.begin()
        done = set(folder.storage.names(_RECORDS))
        remaining = [shard for shard in shards if _record_of(shard) not in done]
        where: dict[str, Any] = {"num_cpus": ENCODING_CPUS}
        if isinstance(folder.storage, LocalStorage) or isinstance(output.storage, LocalStorage):
            where |= installed.on_driver_node()
        if remaining:
            names = _Names(output, shards, where)
            write = _ExportShard(output, to_format, folder.storage, names)
            rows = _by_shard(remaining).map_batches(write, batch_size=1, **where).iter_rows()
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
        images = sum(count["images"] for count in counts)
        summary = {
            "images": images,
            "failures": sum(count["failures"] for count in counts),
            "source_finished": output.is_finished,
            "warnings": [guess.as_json(images) for guess in to_format.guesses],
        }
        folder.lease.look()
        folder.storage.delete(_record_of(shard) for shard in shards)
        return folder.finish(summary, output.id2label)


class _Names:
    """Names for the files of images: their paths in the input's tree, without suffix, and different.

    Args:
        output: the output.
        shards: its shards.
        where: options of the tasks that read the paths.
    """

    def __init__(self, output: MaskOutput, shards: list[str], where: dict[str, Any]) -> None:
        self._folder = str(output.options["input"]).rstrip("/")

        def folders(batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
            return {"folder": np.array([_common_folder(output, shard, self._folder) for shard in batch["shard"]])}

        found = {row["folder"] for row in _by_shard(shards).map_batches(folders, batch_size=1, **where).iter_rows()}
        self._folder = _deepest(found)

        def digests(batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
            parts = [digests_of_names(self._plain(output.rows(shard, ["path"]))) for shard in batch["shard"]]
            return {"digests": np.array([part.tobytes() for part in parts], object)}

        rows = _by_shard(shards).map_batches(digests, batch_size=1, **where).iter_rows()
        self._repeated = repeated(np.frombuffer(b"".join(row["digests"] for row in rows), DIGEST))

    def of(self, table: Any) -> list[str]:
        """Return the names of the rows of a table with `path` and `index`."""
        names = self._plain(table)
        for place in np.flatnonzero(is_among(names, self._repeated)).tolist():
            row = table.slice(place, 1).to_pylist()[0]
            names[place] = with_digest(names[place], f"{row['path']}#{row['index']}")
        return names

    def relative(self, path: str) -> str:
        """Return a path relative to the input."""
        return path.removeprefix(f"{self._folder}/") if self._folder else path

    def _plain(self, table: Any) -> list[str]:
        return [file_name_of(path, self._folder) for path in table.column("path").to_pylist()]


class _ExportShard:
    """Writes the files of the images of a shard, and then what all files together need of them. For `map_batches`."""

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
                file_name = self._names.relative(row["path"])
                image = ExportImage(
                    row["path"], file_name, name, row["index"], mask, row["class_ids"], row["class_pixels"]
                )
                files = self._format.files(image)
                list(pool.map(write, files, files.values()))
                lines.append(json.dumps(self._format.record(image)))
        self._storage.flush()
        lines.insert(0, json.dumps({"images": len(lines), "failures": failures}))
        self._storage.write(_record_of(shard), "\n".join(lines).encode())


def _by_shard(shards: list[str]) -> ray.data.Dataset:
    return installed.from_items([{"shard": shard} for shard in shards], len(shards))


def _record_of(shard: str) -> str:
    """Return the name of the file of what is said of a shard."""
    return f"{_RECORDS}/{posixpath.basename(shard)}.jsonl"


def _lines(storage: Storage, shard: str) -> Iterator[str]:
    """Yield the lines of what is said of a shard."""
    with storage.open(_record_of(shard)) as file:
        yield from file.read().decode().split("\n")


def _common_folder(output: MaskOutput, shard: str, folder: str) -> str:
    """Return `folder` if all images of a shard are below it, else the deepest folder that they are below."""
    paths = output.rows(shard, ["path"]).column("path").to_pylist()
    if all(path.startswith(f"{folder}/") for path in paths):
        return folder
    return _deepest({posixpath.dirname(path) for path in paths})


def _deepest(folders: set[str]) -> str:
    """Return the deepest folder that others are in, or are; "" if there is none."""
    parts = [folder.split("/") for folder in folders]
    shared = 0
    while all(len(each) > shared and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return "/".join(parts[0][:shared])
