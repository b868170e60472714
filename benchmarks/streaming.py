"""Predict a dataset far larger than the object store: does memory stay bounded, and how much is spilled?"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import Table, progress
from benchmarks.process import Child
from benchmarks.settings import Settings

_STORE = 200 * 2**20
_BATCH_SIZE = 8
# Keys of a `Watch`'s samples that are drawn and put in the table, with their names there.
CURVES = {
    "driver": "driver",
    "scoring": "largest scoring worker",
    "others": "largest other worker",
    "store": "object store",
    "spilled": "spilled so far",
}


def run(settings: Settings) -> list[Table]:
    """Return a table of memory at the start, in the middle and at the end, and of its peak."""
    count = 300 if settings.quick else 5000
    photos = (settings.photos * (count // len(settings.photos) + 1))[:count]
    progress(f"streaming: {count} photos")
    with (
        tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as spilled,
        Child(_stream, settings.model, settings.threads, spilled, threads=settings.threads) as stream,
    ):
        result = stream(photos)
    progress("")
    samples = [sample for sample in result["samples"] if sample["rows"]]
    rows = [
        {
            "name": name,
            "start": samples[0][key],
            "middle": next(sample for sample in samples if sample["rows"] >= count / 2)[key],
            "end": samples[-1][key],
            "peak": max(sample[key] for sample in result["samples"]),
        }
        for key, name in CURVES.items()
    ]
    rows[0]["samples"] = result["samples"]
    made = result["bytes"] / 2**20
    notes = [
        f"{count:,} photos in batches of {_BATCH_SIZE} through `BatchPredictor`, with an object store of "
        f"{_STORE / 2**20:.0f} MB. {count * 0.75:,.0f} MB of resized images passed through it, and {made:,.0f} MB of "
        f"masks came out. "
        f"{result['rows']:,} rows came, {result['distinct']:,} of them distinct, in {result['seconds']:.0f} s.",
        "MB of memory that a process does not share; spilled: the size of Ray's spill files, sampled twice a second. "
        "Start is the first row out, when all workers have loaded.",
    ]
    columns = {"name": "MB", "start": "start", "middle": "middle", "end": "end", "peak": "peak"}
    return [Table("A dataset larger than memory, B0", columns, rows, notes)]


def start_ray(cpus: int, object_store_memory: int, spilled: str) -> None:
    """Start a local Ray without log lines, which spills to the folder `spilled`."""
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(
        "local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=object_store_memory,
        object_spilling_directory=spilled,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False


def predicted(model: Any, paths: Sequence[str], batch_size: int, workers: int) -> Any:
    """Return the lazy dataset of masks, with the path's position as `key`."""
    import ray

    from ray_segformer import BatchPredictor, SegformerPredictor
    from ray_segformer.jobs import resources_for

    items = [{"key": key, "image": path} for key, path in enumerate(paths)]
    blocks = max(1, len(items) // (4 * batch_size))
    return BatchPredictor.from_checkpoint(model, SegformerPredictor).predict(
        ray.data.from_items(items, override_num_blocks=blocks),
        keep_columns=["key"],
        min_scoring_workers=workers,
        **{**resources_for(len(items), batch_size), "max_scoring_workers": workers},
    )


def _stream(model: str, cpus: int, spilled: str) -> Callable[[Sequence[str]], dict[str, Any]]:
    start_ray(cpus, _STORE, spilled)
    from benchmarks.watch import Watch
    from ray_segformer import SegformerCheckpoint

    def run(paths: Sequence[str]) -> dict[str, Any]:
        """Run the job. Return samples of memory, and counts of rows and bytes."""
        dataset = predicted(SegformerCheckpoint.from_pretrained(model), paths, _BATCH_SIZE, workers=1)
        keys: set[int] = set()
        size = 0
        with Watch(spilled) as watch:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                keys.update(batch["key"].tolist())
                size += sum(mask.nbytes for mask in batch["segmentation"])
                watch.rows += len(batch["key"])
        seconds = watch.samples[-1]["seconds"]
        return {
            "samples": watch.samples,
            "rows": watch.rows,
            "distinct": len(keys),
            "bytes": size,
            "seconds": seconds,
        }

    return run
