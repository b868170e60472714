"""Prediction as a job: the images of an input through `BatchPredictor` to a folder of masks, a shard at a time."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import ray

from ray_segformer.air import BatchPredictor, installed
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.images import MAX_PIXELS
from ray_segformer.inputs import find_images, readable
from ray_segformer.jobs.encode import EncodeMasks
from ray_segformer.jobs.mask_folder import ROWS_PER_SHARD, MaskFolder
from ray_segformer.jobs.output_folder import OutputError
from ray_segformer.jobs.progress import with_progress
from ray_segformer.jobs.resources import ENCODING_CPUS, resources_for
from ray_segformer.jobs.session import start_ray
from ray_segformer.predictor import SegformerPredictor
from ray_segformer.stage_times import stages_of, start_ledger
from ray_segformer.viz import class_palette


def predict(
    source: str,
    output: str,
    checkpoint: SegformerCheckpoint,
    *,
    mask_format: Literal["parquet", "png"] = "parquet",
    overlays: bool = False,
    on_error: Literal["raise", "keep"] = "raise",
    max_pixels: int = MAX_PIXELS,
    runtime: Literal["auto", "eager", "compile", "openvino"] = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    batch_size: int = 8,
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    rows_per_shard: int = ROWS_PER_SHARD,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Segment the images of an input, on the Ray that runs, as `ray-segformer predict` does.

    Args:
        source: a folder (searched recursively), a glob, a list file, an image, or parquet; or a URI.
        output: the folder to make, with `masks/`, `classes.json` and `summary.json`; see `MaskFolder`.
        checkpoint: the model.
        mask_format: parquet with `path`, `height`, `width`, `segmentation` (a PNG's bytes) and `error`; or PNG files in
            the tree of the input.
        overlays: whether to write the images under their masks, too, as JPEG files.
        on_error, max_pixels, runtime, dtype: as for `SegformerPredictor`.
        batch_size: images predicted at once.
        workers: actors at most; None for as many as the CPUs, or GPUs, allow.
        gpus_per_worker: GPUs that an actor reserves.
        rows_per_shard: rows are committed so many at a time, as they are done.
        overwrite: replace an earlier output, once the new one is complete.
        resume: go on with what an interrupted run of the same options left, if it left anything. Only `on_error` may
            become "keep", and `batch_size`, `workers`, `gpus_per_worker` and `rows_per_shard` may change.
        progress: whether to show a progress bar on stderr.

    Returns:
        What `summary.json` holds: `images` and `failures` (of all runs together), `failures_by_cause`, `resumed` (how
        many images earlier runs had done), `seconds` and `images_per_second` (of this run), `stages` (seconds and rows
        of each of `ray_segformer.stage_times`, added up over this run's workers), and `options`.

    Raises:
        InputError: there are no images.
        OutputError: the output may not be written, or what is to be resumed was made by other options.
        ResourceError: the cluster has no such GPUs.
        ValueError, RuntimeError: an option has none of its values, or what the runtime needs is not installed.
        ImageError: an image cannot be read, with `on_error="raise"`. What was done before is kept, for `resume`.
    """
    from ray_segformer.network import check_options  # here, not above: tasks that only encode import this room too

    check_options(runtime, dtype, "cuda" if gpus_per_worker else "cpu")
    options = {"on_error": on_error, "max_pixels": max_pixels, "runtime": runtime, "dtype": dtype}
    asked = {
        "input": readable(source),
        "model": checkpoint.content.digest(),
        "format": mask_format,
        "overlays": overlays,
        "max_pixels": max_pixels,
        "runtime": runtime,
        "dtype": dtype,
    }
    folder = MaskFolder(output, mask_format, asked, overwrite=overwrite, resume=resume, rows_per_shard=rows_per_shard)
    images = find_images(source)
    started = time.monotonic()
    with folder:
        if folder.finished is not None:
            nothing = {"resumed": folder.finished["images"], "seconds": 0.0, "images_per_second": 0.0, "stages": {}}
            return {**folder.finished, **nothing}
        done = folder.done
        resumed = len(done)
        if on_error == "raise" and folder.causes:
            raise OutputError(
                f"{folder.unfinished}: {folder.causes.total()} images of what is done failed, and were kept; "
                'go on with on_error="keep", or start anew'
            )
        left = images.rows if not resumed else int((~done.among(images.keys())).sum())
        if not ray.is_initialized():
            start_ray()
        resources = resources_for(images.rows, batch_size, workers, gpus_per_worker)
        ledger = start_ledger()
        if left:
            dataset = images.dataset(done if resumed else None)
            dataset.context.execution_options.preserve_order = True
            palette = class_palette(checkpoint.id2label) if overlays else None
            rows = encoded_masks(dataset, checkpoint, options, palette, resources).iter_rows()
            for row in with_progress(rows, resumed + left, resumed) if progress else rows:
                folder.write(row)
        folder.commit()
        seconds = time.monotonic() - started
        count, causes = folder.rows, folder.causes
        summary = {
            "images": count,
            "failures": causes.total(),
            "failures_by_cause": dict(causes.most_common()),
            "resumed": resumed,
            "images_per_second": round((count - resumed) / seconds, 3),
            "seconds": round(seconds, 3),
            "stages": stages_of(ledger, count - resumed),
        }
        return folder.finish(summary, checkpoint.id2label)


def encoded_masks(
    dataset: ray.data.Dataset,
    checkpoint: SegformerCheckpoint,
    options: dict[str, Any],
    palette: np.ndarray | None,
    resources: dict[str, Any],
) -> ray.data.Dataset:
    """The rows of `EncodeMasks` for a dataset of `path`, `image`, `name` and `key`, as a lazy dataset.

    Args:
        options: of `SegformerPredictor`, with `on_error`, and with `max_pixels` where it is not the default.
        resources: of `BatchPredictor.predict`.
    """
    keep_columns = ["path", "name", "key"]
    if palette is not None:  # the preprocessor takes the image away; what it was read from is small
        dataset = dataset.map_batches(_with_source, batch_format="pyarrow")
        keep_columns.append("source")
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, **options)
    if installed.HAS_AIR:
        images = {name: options[name] for name in ("on_error", "max_pixels") if name in options}
        predictor.set_preprocessor(checkpoint.get_preprocessor(**images))
    predictions = predictor.predict(dataset, keep_columns=keep_columns, **resources)
    encode = EncodeMasks(palette, options.get("max_pixels", MAX_PIXELS))
    return predictions.map_batches(encode, batch_size=resources["batch_size"], num_cpus=ENCODING_CPUS)


def _with_source(batch: Any) -> Any:
    return batch.append_column("source", batch.column("image"))
