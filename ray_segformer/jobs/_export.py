"""Exports as a job: turn an output of `predict` into the files of another program."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import ray

from ray_segformer._guesses import say
from ray_segformer.exports import FORMATS, ExportError, ExportFormat, SourceFormat
from ray_segformer.inputs import Location
from ray_segformer.jobs._cluster import start_ray
from ray_segformer.jobs._export_images import RECORDS, export_images
from ray_segformer.jobs._export_sources import export_sources
from ray_segformer.jobs._preflight import check_nodes
from ray_segformer.outputs import LocalStorage, MaskOutput, OutputError, OutputFolder


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
        out; `files`, how many were written, if images are parts of files; `source_finished`; `source_digest`, which
        tells its images from others; `warnings` (what the format guessed: `code`, `message`, `rows`); and `options`.

    Raises:
        ExportError: the format is not known, or has no such option, or cannot hold the classes, or is for another kind
            of input, or needs a package that is not installed.
        ResourceError: a node of the cluster has other packages than this machine, or cannot write the destination. See
            `check_nodes`.
        SourceError: the format needs the files of the input, and some cannot be read any more. All others are exported.
        OutputError: the source is no output of `predict`, or the destination cannot be written; or with `resume`, it is
            complete, and the source has other images now.
    """
    if file_format not in FORMATS:
        raise ExportError(f"file_format is one of {', '.join(FORMATS)}, not {file_format!r}")
    unknown = sorted({*options} - {*inspect.signature(FORMATS[file_format]).parameters})
    if unknown:
        raise ExportError(f"the format {file_format} has no option {', '.join(unknown)}")
    output = MaskOutput(source)
    to_format = FORMATS[file_format](output.id2label, **options)
    used = {"source": Location(source).canonical, "format": file_format, **options}
    folder = OutputFolder(
        destination, source=source, overwrite=overwrite, resume=resume, options=used, summary_name="export.json"
    )
    with folder:
        shards = output.shards()
        digest = hashlib.sha256("\n".join(shards).encode()).hexdigest()  # the name of a shard has one of its keys
        if folder.finished is not None:
            if folder.finished.get("source_digest", digest) != digest:  # earlier versions have none
                raise OutputError(
                    f"{folder.storage.shown} is complete, but {output.storage.shown} has other images now; export them "
                    "with --overwrite"
                )
            return folder.finished
        if not shards:
            raise OutputError(f"{output.storage.shown}: no images there yet")
        _check(output, shards, file_format, to_format)
        say(to_format.guesses)
        if not ray.is_initialized():
            start_ray()
        is_local = isinstance(folder.storage, LocalStorage) or isinstance(output.storage, LocalStorage)
        check_nodes(None if is_local else folder.storage, None, with_gpus=False)
        folder.begin()
        if isinstance(to_format, SourceFormat):
            counts = export_sources(output, shards, to_format, folder, is_local=is_local, progress=progress)
        else:
            counts = export_images(output, shards, to_format, folder, is_local=is_local, progress=progress)
        folder.lease.look()
        # A list may name hidden folders. Files of images there would have another suffix.
        folder.storage.delete(name for name in folder.storage.names(RECORDS) if name.endswith((".json", ".jsonl")))
        warnings = [guess.as_json(counts["images"]) for guess in to_format.guesses]
        summary = {**counts, "source_finished": output.is_finished, "source_digest": digest, "warnings": warnings}
        return folder.finish(summary, output.id2label)


def _check(output: MaskOutput, shards: list[str], name: str, to_format: ExportFormat | SourceFormat) -> None:
    """Check that a format can hold the images of an output.

    Raises:
        ExportError: it cannot.
    """
    columns = output.place_columns(shards[0]).names
    if isinstance(to_format, SourceFormat):
        if not ({*to_format.columns} <= {*columns} or (to_format.takes_whole_files and not columns)):
            raise ExportError(
                f"{output.storage.shown}: --format {name} is for masks of {to_format.kind}, whose rows have "
                f"{' and '.join(to_format.columns)}"
            )
    elif to_format.shows_files and columns:
        raise ExportError(
            f"{output.storage.shown}: --format {name} is for images in files of their own, and these are parts of "
            f"files, told by {' and '.join(columns)}; write the parts as image files, and predict those"
        )
