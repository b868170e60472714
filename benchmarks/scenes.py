"""Predict a scene of 30,000 x 30,000 pixels by parts and make its GeoTIFF: how much memory is taken?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Table, progress
from benchmarks.process import Child
from benchmarks.settings import Settings
from benchmarks.streaming import start_ray

_SIDE = 30_000
_WINDOW = 512
_STORE = 2 * 2**30
_STEPS = ("predict", "export")


def run(settings: Settings) -> list[Table]:
    """Return a table of the two steps, with the peaks of their processes."""
    side = 5000 if settings.quick else _SIDE
    rows = []
    with tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
        with Child(_writer, settings.photos[0], threads=1) as write:
            write(side, f"{folder}/scene.tif")
        for step in _STEPS:
            progress(f"scenes: {step}")
            with Child(_job, settings.model, settings.threads, folder, threads=settings.threads) as job:
                samples = job(step)
            row = {name: max(sample[name] for sample in samples) for name in ("driver", "scoring", "others", "store")}
            rows.append({"name": step, **row, "seconds": samples[-1]["seconds"], "samples": samples})
    progress("")
    columns = {
        "name": "MB at the peak",
        "driver": "driver",
        "scoring": "largest worker that scores",
        "others": "largest other worker",
        "store": "object store",
        "seconds": "seconds",
    }
    notes = [
        f"A GeoTIFF of {side:,} x {side:,} pixels and three bands of 16 bits, windows of {_WINDOW} every {_WINDOW}, "
        "B0, 150 classes. Of processes, memory that they do not share, sampled twice a second."
    ]
    return [Table("A large scene by parts", columns, rows, notes)]


def _writer(photo: str) -> Callable[[int, str], None]:
    import rasterio
    from rasterio.windows import Window

    tile = np.asarray(Image.open(photo).convert("RGB")).transpose(2, 0, 1).astype(np.uint16) * 40

    def write(side: int, path: str) -> None:
        size = {"count": 3, "height": side, "width": side, "dtype": "uint16"}
        place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
        layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "lzw", "BIGTIFF": "YES"}
        across = np.tile(tile, (1, -(-512 // tile.shape[1]) + 1, -(-side // tile.shape[2])))[..., :side]
        with rasterio.open(path, "w", driver="GTiff", **size, **place, **layout) as scene:
            for row in range(0, side, 512):
                height = min(512, side - row)
                first = row % tile.shape[1]
                scene.write(across[:, first : first + height], window=Window(0, row, side, height))

    return write


def _job(model: str, cpus: int, folder: str) -> Callable[[str], list[dict[str, float]]]:
    """Start Ray, and return a function that runs a step, and returns a `Watch`'s samples."""
    start_ray(cpus, _STORE, folder + "/spilled")

    from benchmarks.watch import Watch
    from ray_segformer import SegformerCheckpoint
    from ray_segformer.images import Bands
    from ray_segformer.jobs import export, predict
    from ray_segformer.protocol import Protocol

    checkpoint = SegformerCheckpoint.from_pretrained(model)

    def run(step: str) -> list[dict[str, float]]:
        source, output = str(Path(folder, "scene.tif")), str(Path(folder, "out"))
        with Watch(folder + "/spilled") as watch:
            if step == "predict":
                bands, protocol = Bands(low=0, high=10200), Protocol(window=_WINDOW)
                predict(source, output, checkpoint, bands=bands, protocol=protocol, progress=False)
            else:
                export(output, str(Path(folder, "maps")), "geotiff", progress=False)
        return watch.samples

    return run
