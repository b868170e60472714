"""Predict an image of 20,000 x 20,000 pixels in windows, in each way through Ray: how much memory do processes take?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Table, progress
from benchmarks.process import Child
from benchmarks.settings import Settings
from benchmarks.streaming import start_ray

_SIDE = 20_000
_WINDOW, _STRIDE = 512, 384
_STORE = 4 * 2**30
_WAYS = ("predict", "map_batches", "BatchPredictor")


def run(settings: Settings) -> list[Table]:
    """Return a table of the ways, with the peaks of their processes."""
    side = 4096 if settings.quick else _SIDE
    rows = []
    with tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
        with Child(_writer, settings.photos[0], threads=1) as write:
            write(side, f"{folder}/huge.jpg")
        for way in _WAYS:
            progress(f"huge: {way}")
            with Child(_job, settings.model, settings.threads, folder, threads=settings.threads) as job:
                samples = job(way)
            row = {name: max(sample[name] for sample in samples) for name in ("driver", "scoring", "others", "store")}
            held = side * side * 4 / 2**20
            above = max(row["driver"], row["scoring"], row["others"]) - held
            seconds = samples[-1]["seconds"]
            rows.append({"name": way, **row, "held": held, "above": above, "seconds": seconds, "samples": samples})
    progress("")
    columns = {
        "name": "MB at the peak",
        "driver": "driver",
        "scoring": "worker that scores",
        "others": "largest other worker",
        "store": "object store",
        "held": "image and mask",
        "above": "largest process, above image and mask",
        "seconds": "seconds",
    }
    notes = [
        f"A JPEG of {side:,} x {side:,} pixels, windows of {_WINDOW} every {_STRIDE}, B0, 150 classes. Of processes, "
        "memory that they do not share, sampled twice a second."
    ]
    return [Table("A huge image through Ray", columns, rows, notes)]


def _writer(photo: str) -> Callable[[int, str], None]:
    tile = np.asarray(Image.open(photo).convert("RGB"))

    def write(side: int, path: str) -> None:
        pixels = np.tile(tile, (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1))[:side, :side]
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=90)

    return write


def _job(model: str, cpus: int, folder: str) -> Callable[[str], list[dict[str, float]]]:
    """Start Ray, and return a function that segments the image in one of the ways, and returns a `Watch`'s samples."""
    start_ray(cpus, _STORE, folder + "/spilled")
    import ray

    from benchmarks.watch import Watch
    from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
    from ray_segformer.jobs import predict
    from ray_segformer.protocol import Protocol

    checkpoint = SegformerCheckpoint.from_pretrained(model)
    protocol = Protocol(window=_WINDOW, stride=_STRIDE)
    options: dict[str, Any] = {**protocol.options(), "max_pixels": _SIDE**2}

    def masks(way: str) -> Any:
        images = ray.data.from_items([{"image": str(Path(folder, "huge.jpg"))}])
        if way == "BatchPredictor":
            predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, **options)
            return predictor.predict(images, min_scoring_workers=1, max_scoring_workers=1, num_cpus_per_worker=1)
        return images.map_batches(
            SegformerPredictor,
            fn_constructor_args=(checkpoint,),
            fn_constructor_kwargs=options,
            compute=ray.data.ActorPoolStrategy(size=1),
            batch_size=1,
        )

    def run(way: str) -> list[dict[str, float]]:
        with Watch(folder + "/spilled") as watch:
            if way == "predict":
                source, output = str(Path(folder, "huge.jpg")), str(Path(folder, "out"))
                predict(
                    source, output, checkpoint, protocol=protocol, max_pixels=_SIDE**2, batch_size=1, progress=False
                )
                watch.rows = 1
            else:
                for batch in masks(way).iter_batches(batch_size=None, prefetch_batches=0):
                    watch.rows += len(batch["segmentation"])
        return watch.samples

    return run
