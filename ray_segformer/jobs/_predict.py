"""Prediction as a job: segment the images of an input with `BatchPredictor`, and write an output of masks."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import ray

from ray_segformer._guesses import say
from ray_segformer._segmenter import check_foreground_threshold
from ray_segformer._stage_times import start_totals, totals_by_stage
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.images import MAX_PIXELS, Bands
from ray_segformer.inputs import DoneRows, ImageInput, InputError, Location, find_rounds, find_scenes
from ray_segformer.jobs._cluster import resources_for, start_ray, start_ray_during, where_to_run
from ray_segformer.jobs._compile import compile_ahead
from ray_segformer.jobs._encoded_masks import encoded_masks
from ray_segformer.jobs._preflight import check_nodes
from ray_segformer.jobs._report import REPORT_NAME, report_page
from ray_segformer.jobs._write_rounds import write_rounds
from ray_segformer.network import check_options
from ray_segformer.outputs import CLASSES_NAME, LocalStorage, MaskOutput, OutputError, OutputFolder, Shards, WriteShards
from ray_segformer.protocol import PLAIN, Protocol
from ray_segformer.viz import class_palette

ROWS_PER_SHARD = 1024
_BATCHES_PER_SHARD = 16  # of large images, so that a run that ends early loses no hours


def predict(
    source: str,
    output: str,
    checkpoint: SegformerCheckpoint,
    *,
    exclude: Sequence[str] = (),
    bands: Bands | None = None,
    every: int | None = None,
    mask_format: Literal["parquet", "png"] = "parquet",
    overlays: bool = False,
    on_error: Literal["raise", "keep"] = "raise",
    max_pixels: int = MAX_PIXELS,
    runtime: Literal["auto", "eager", "compile", "openvino"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    foreground_threshold: float | None = None,
    protocol: Protocol = PLAIN,
    confidence: bool = False,
    report: bool = False,
    batch_size: int = 8,
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    rows_per_shard: int = ROWS_PER_SHARD,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Segment the images of an input, as `ray-segformer predict` does.

    It uses the Ray that is running, and calls `start_ray` if none is.

    Args:
        source: the input: a folder (searched recursively), a glob, a list file, an image, a video, or parquet; or a
            URI. With more than 50,000 images, the first are segmented while the others are listed; see `find_rounds`.
        output: the folder to make: a path on this machine, or a URI of pyarrow's file systems with its options. Tasks
            write to it, on this machine alone if it is a local folder. It gets these files:

            * `masks/part-*.parquet`: shards, with the columns of `schema_of`. A shard is there as a whole or not at
              all, and does not change. Names sort as the input.
            * `overlays/`: a JPEG for each image, with `overlays`.
            * with `mask_format="png"`, `masks/` and `confidence/` with a PNG for each image, and the shards in `rows/`.
            * `classes.json`: class names by class id.
            * `report.html`, with `report`: see `ray_segformer.jobs._report`.
            * `summary.json`: what was done. It is written last: without it, the run is not finished.

        checkpoint: the model.
        exclude: globs of files to leave out, compared with paths relative to the input and with names of files.
            Default: none.
        bands: read the files, which are all TIFF, as scenes, by these bands; a large scene becomes a row for each part.
            See `find_scenes`. Needs the extra `geo`. Default: None, read them as images.
        every: of videos, only the frames 0, N, 2 N and so on. Default: all.
        mask_format: "parquet" (default) has the columns of `schema_of`, with PNGs in `segmentation`. "png" writes PNG
            files, in the same tree of folders as the input, and the same columns in `rows/`, with the files' paths.
        overlays: whether to write JPEG files, too, of the images with their masks drawn over them. Default: False.
        on_error, max_pixels, runtime, dtype, foreground_threshold: as for `SegformerPredictor`. With a threshold,
            `classes.json` names 0 "background", and 1 as the model's one class. With the runtime "auto", a long job on
            CPUs compiles the network for its workers; see `compile_ahead`.
        protocol: how images are shown to the network. Default: what the checkpoint's own preprocessing says.
        confidence: whether to write the winner's softmax probability, too, as 8-bit grey PNGs, where 255 is 1.0: in the
            column `confidence`, or in the folder `confidence/`. Default: False.
        report: whether to write a page to look through, too, when all images are done. Default: False.
        batch_size: the number of images that are predicted at once. Default: 8.
        workers: the most actors. Default: see `resources_for`.
        gpus_per_worker: the GPUs that an actor reserves. Default: 0, for CPU.
        rows_per_shard: the number of rows in a shard. A run that ends early loses the rows that are in no shard yet.
            Default: 1024.
        overwrite: delete an earlier output first. Default: False.
        resume: continue what an interrupted run left, if it left anything; also from another machine. A row is done if
            it is in a shard. A finished run is looked through, too: images that are new in the input are segmented,
            shards and PNG files that are missing are made again, and shards that hold rows a second time are deleted.
            The earlier run must have had the same options, except that `on_error` may now be "keep", and that `report`,
            `batch_size`, `workers`, `gpus_per_worker` and `rows_per_shard` may differ. Default: False.
        progress: whether to show a progress bar on stderr. Default: True.

    Returns:
        The content of `summary.json`: `model` (where the checkpoint is from, such as its directory), `images`, `shards`
        and `failures` (of all runs together), `failures_by_cause`, `resumed` (the images that earlier runs had done),
        `seconds` and `images_per_second` (of this run), `stages` (seconds and rows of each stage, added up over the
        workers of this run),
        `classes` (a list by class id of `id`, `name`, `pixels`, `share` of all pixels, and `images` that have it),
        `protocol` (how images were shown to the network, a sentence), `warnings` (what was guessed: `code`, `message`,
        and how many `rows` or files it concerns), and `options`.

    Warns:
        SegformerWarning: files of the input are not looked at, or look like masks; see `find_images`.

    Raises:
        InputError: there are no images, or `every` is given for others than videos, or a glob of `exclude` matches
            nothing. With more than 50,000 images, the latter is found only when all are listed.
        OutputError: the output cannot be written there, or the run to resume had other options.
        ResourceError: the cluster has fewer GPUs than an actor reserves; or a node has other packages, cannot read the
            input or write the output, or its torch finds no GPU. See `check_nodes`.
        ValueError: an option has an unknown value.
        RuntimeError: a package that the runtime needs is not installed.
        ImageError: an image cannot be read, and `on_error` is "raise". Ray may wrap it; `failure_of` finds it. Rows
            that were done before are kept, for `resume`.
    """
    every, max_pixels, foreground_threshold = map(_plain, (every, max_pixels, foreground_threshold))
    batch_size, workers, gpus_per_worker, rows_per_shard = map(
        _plain, (batch_size, workers, gpus_per_worker, rows_per_shard)
    )
    overlays, confidence = bool(overlays), bool(confidence)
    if mask_format not in ("parquet", "png"):
        raise ValueError(f'mask_format is "parquet" or "png", not {mask_format!r}')
    check_options(runtime, dtype, "cuda" if gpus_per_worker else "cpu")
    check_foreground_threshold(foreground_threshold, checkpoint.content.num_labels)
    protocol.check_window(checkpoint.content.smallest_side)
    options: dict[str, Any] = {"on_error": on_error, "max_pixels": max_pixels, "runtime": runtime, "dtype": dtype}
    options |= {"foreground_threshold": foreground_threshold, "confidence": confidence, **protocol.options()}
    names = checkpoint.id2label if foreground_threshold is None else {0: "background", 1: checkpoint.id2label[0]}
    # A run may be resumed only with the same values of these.
    result_options = {
        "input": Location(source).canonical,
        "exclude": sorted(set(exclude)),
        **({} if bands is None else {"bands": bands.as_json()}),
        **({} if every is None else {"every": every}),
        "model": checkpoint.content.digest(),
        "format": mask_format,
        "overlays": overlays,
        **{name: value for name, value in options.items() if name != "on_error"},
    }
    folder = OutputFolder(output, source=source, overwrite=overwrite, resume=resume, options=result_options)
    distinct_names = overlays or mask_format == "png"

    def listed() -> Iterator[ImageInput]:
        if bands is None:
            return find_rounds(source, exclude=exclude, every=every, distinct_names=distinct_names, output=output)
        if every is not None:
            raise InputError("every (--every) is for videos, and bands (--bands, --range) for scenes; leave one out")
        return find_scenes(
            source,
            bands,
            protocol.windows_alone,
            on_error=on_error,
            exclude=exclude,
            distinct_names=distinct_names,
            output=output,
        )

    rounds = listed()
    images = start_ray_during(partial(next, rounds))
    say(images.guesses)
    started = time.monotonic()
    with folder:
        shards = Shards(folder.storage, mask_format)
        is_finished = folder.finished is not None
        done = shards.find(with_files=is_finished) if is_finished or folder.resumes else None
        if folder.finished and done and _is_whole(folder, shards, done, itertools.chain([images], rounds)):
            if report:
                _write_report(folder, output, folder.finished, source, progress)
            this_run = {"resumed": folder.finished["images"], "seconds": 0.0, "images_per_second": 0.0, "stages": {}}
            return {**folder.finished, **this_run}
        resumed = shards.rows
        if on_error == "raise" and shards.causes:
            raise OutputError(
                f"{folder.storage.shown}: the earlier run kept {shards.causes.total()} images that failed; continue "
                'with on_error="keep" (--on-error keep), or start again with --overwrite'
            )
        if is_finished:
            rounds = listed()
            images = next(rounds)
        if not ray.is_initialized():
            start_ray()
        if images.rows_at_once is not None:
            batch_size = min(batch_size, images.rows_at_once)
            rows_per_shard = min(rows_per_shard, _BATCHES_PER_SHARD * images.rows_at_once)
        resources = resources_for(images.rows, batch_size, workers, gpus_per_worker)
        check_nodes(folder.storage, images.file, with_gpus=gpus_per_worker > 0)
        totals = start_totals()
        if runtime == "auto" and not gpus_per_worker:
            size = protocol.network_size(checkpoint.get_preprocessor())
            most = resources["max_scoring_workers"]
            to_do = images.rows - resumed if images.is_last else math.inf  # not all are listed yet: there are many
            compile_ahead(checkpoint, size, to_do, most, totals, dtype=dtype, device="cpu")
        if is_finished:
            folder.reopen()
        folder.begin(names)
        palette = class_palette(names) if overlays else None
        write = WriteShards(folder.storage, mask_format, confidence=confidence, columns=images.columns)
        # These tasks mostly wait. A local folder is that of the driver's machine.
        where_to_write = where_to_run(0, here=isinstance(folder.storage, LocalStorage))

        def written(images: ImageInput) -> ray.data.Dataset:
            dataset = images.dataset(done, distinct_names=distinct_names)
            dataset.context.execution_options.preserve_order = True
            encoded = encoded_masks(dataset, checkpoint, options, palette, resources, images.columns)
            return encoded.map_batches(write, batch_format="pyarrow", batch_size=rows_per_shard, **where_to_write)

        rounds = itertools.chain([images], rounds)
        guesses = write_rounds(rounds, images.guesses, written, done, shards, folder, totals if progress else None)
        shards.settle()
        seconds = time.monotonic() - started
        count, causes, model = shards.rows, shards.causes, checkpoint.content.source
        summary = {
            "model": os.path.abspath(model) if os.path.isdir(model) else model,
            "images": count,
            "shards": shards.count,
            "failures": causes.total(),
            "failures_by_cause": dict(causes.most_common()),
            "resumed": resumed,
            "images_per_second": round((count - resumed) / seconds, 3),
            "seconds": round(seconds, 3),
            "stages": totals_by_stage(totals, count - resumed),
            "classes": shards.areas.as_json(names),
            "protocol": protocol.describe(checkpoint.get_preprocessor()),
            "warnings": [
                guess.as_json(count)
                for guess in (*checkpoint.content.guesses, *guesses)
                if guess.code != "one-class" or foreground_threshold is None  # it asks for that
            ],
        }
        if report:
            _write_report(folder, output, summary, source, progress)
        elif REPORT_NAME in folder.storage.entries():  # of an earlier run, without the images of this one
            folder.storage.delete([REPORT_NAME])
        return folder.finish(summary, names)


def _plain(number: Any) -> Any:
    """Return a number of NumPy as Python's own: JSON holds no others, and Ray Data never ends with unsigned ones."""
    return number.item() if isinstance(number, np.generic) else number


def _is_whole(folder: OutputFolder, shards: Shards, done: DoneRows, rounds: Iterable[ImageInput]) -> bool:
    """Return whether nothing is missing of a finished run: no shard, no names of classes, and no image of its input."""
    counted = (folder.finished or {}).get("shards", shards.count)  # earlier versions did not count them
    if counted != shards.count or CLASSES_NAME not in folder.storage.entries():
        return False
    return all(done.among(images.keys()).all() for images in rounds)


def _write_report(folder: OutputFolder, output: str, summary: dict[str, Any], source: str, progress: bool) -> None:
    page = report_page(MaskOutput(output), summary, Location(source), progress=progress)
    folder.lease.check()
    folder.write_file(REPORT_NAME, page)
