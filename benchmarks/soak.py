"""Run a long job in which a worker is killed every minute, and the same job undisturbed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Table, progress
from benchmarks.process import Child
from benchmarks.settings import Settings
from benchmarks.streaming import predicted, start_ray

_WORKERS = 2
_BATCH_SIZE = 16
_SIDE = 64
_SCENES = 500  # image files; a job reads each many times
_STORE = 500 * 2**20


def run(settings: Settings) -> list[Table]:
    """Return a table with a row for each job.

    Raises:
        RuntimeError: a job lost or duplicated a row.
    """
    count = 1000 if settings.quick else 50_000
    every = 10 if settings.quick else 60
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
        paths = _scenes(Path(folder))
        paths = (paths * (count // len(paths) + 1))[:count]
        for name, kill_every in (("undisturbed", None), (f"a worker killed every {every} s", every)):
            progress(f"soak: {name}")
            spilled = tempfile.mkdtemp(dir=folder)
            with Child(_job, settings.threads, spilled, threads=settings.threads) as job:
                rows.append({"name": name, **job(paths, kill_every)})
    progress("")
    for row in rows:
        row["ratio"] = row["images_per_second"] / rows[0]["images_per_second"]
        if row["lost"] or row["doubled"]:
            raise RuntimeError(f"{row['name']}: {row['lost']} rows lost, {row['doubled']} duplicated")
    columns = {
        "name": "",
        "images": "images",
        "killed": "kills",
        "lost": "lost",
        "doubled": "duplicated",
        "images_per_second": "images/s",
        "ratio": "of undisturbed",
        **{f"scoring_{part}": f"MB at {part}" for part in ("25 %", "50 %", "75 %", "100 %")},
        "driver_25 %": "driver at 25 %",
        "driver_100 %": "at 100 %",
        "spilled": "spilled",
    }
    notes = [
        f"Images of {_SIDE} x {_SIDE} pixels, the packaged model, batches of {_BATCH_SIZE}, {_WORKERS} workers on "
        f"{settings.threads} CPUs. Images/s from the first row to the last. MB: memory of the largest scoring worker, "
        "and of the driver, when that share of the rows was done.",
        "Rows are counted by key. A lost or duplicated row would have ended this section with an error.",
    ]
    return [Table("A long job, undisturbed and with workers killed", columns, rows, notes)]


def _scenes(folder: Path) -> list[str]:
    from ray_segformer.demo import write_scenes

    write_scenes(folder, _SCENES, height=_SIDE, width=_SIDE)
    return sorted(str(path) for path in (folder / "images").iterdir())


def _job(cpus: int, spilled: str) -> Callable[[Sequence[str], float | None], dict[str, Any]]:
    start_ray(cpus, _STORE, spilled)
    from benchmarks.watch import Watch
    from ray_segformer import SegformerCheckpoint

    def run(paths: Sequence[str], kill_every: float | None) -> dict[str, Any]:
        """Run one job. Return its row of the table, with the samples for the picture."""
        dataset = predicted(SegformerCheckpoint.demo(), paths, _BATCH_SIZE, _WORKERS)
        keys: Counter[int] = Counter()
        with Watch(spilled, kill_every) as watch:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
                keys.update(batch["key"].tolist())
                watch.rows += len(batch["key"])
        first = next(sample for sample in watch.samples if sample["rows"])
        last = watch.samples[-1]
        quarters = {
            f"{kind}_{part}": sample[kind]
            for part, sample in zip(("25 %", "50 %", "75 %", "100 %"), watch.quarters(), strict=True)
            for kind in ("scoring", "driver", "all")
        }
        return {
            "images": len(paths),
            "killed": len(watch.kills),
            "kills": watch.kills,
            "lost": len(set(range(len(paths))) - set(keys)),
            "doubled": sum(times > 1 for times in keys.values()),
            "images_per_second": (last["rows"] - first["rows"]) / max(last["seconds"] - first["seconds"], 1e-9),
            "spilled": last["spilled"],
            "samples": watch.samples,
            **quarters,
        }

    return run
