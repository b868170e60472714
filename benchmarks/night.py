"""Segment from a store to a store by the command, while workers are killed every minute and the driver twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import Table, progress
from benchmarks.process import Child
from benchmarks.settings import Settings
from benchmarks.storage import server_of_objects
from benchmarks.watch import SCORING

_SIDE = 64
_SCENES = 500  # objects; a job reads each many times
_DRIVERS = 3  # all but the last are killed
_USER = "someone:secret@"


def run(settings: Settings) -> list[Table]:
    """Return a table with a row for each driver.

    Raises:
        RuntimeError: a row is missing or there twice.
    """
    count = 1500 if settings.quick else 50_000
    every = 10 if settings.quick else 60
    with (
        tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder,
        Child(server_of_objects, threads=1) as server,
        Child(_store, threads=1) as store,
        Child(_cluster, settings.threads, threads=1) as cluster,
    ):
        options, joined = server(), cluster()
        store("fill", options, folder, count)
        rows = [_drive(number, store, options, joined, count, every) for number in range(_DRIVERS)]
        found, distinct = store("rows", options, folder, count)
    progress("")
    if found != count or distinct != count:
        raise RuntimeError(f"{found} rows, {distinct} of them distinct, of {count} images")
    columns = {
        "name": "",
        "resumed": "images done before",
        "seconds": "seconds",
        "killed": "workers killed",
        "driver_start": "driver's MB, after a minute",
        "driver_end": "at the end",
        "scoring_start": "largest scoring worker's MB, after a minute",
        "scoring_end": "at the end",
    }
    notes = [
        f"`ray-segformer predict` of {count:,} images of {_SIDE} x {_SIDE} pixels from S3 to S3, packaged model, on "
        f"a Ray of {settings.threads} CPUs and a server of objects on this machine. A scoring worker is killed every "
        f"{every} s; the first {_DRIVERS - 1} drivers are killed when they have done a third of the images. Each image "
        "is there once: otherwise, this section would have ended with an error."
    ]
    return [Table("A night: S3 to S3, with workers and drivers killed", columns, rows, notes)]


def _drive(
    number: int, store: Child, options: str, joined: tuple[dict[str, str], int], count: int, every: float
) -> dict[str, Any]:
    """Run a driver, kill workers, and kill the driver at a third of the images unless it is the last."""
    uris = [f"s3://{_USER}night/{name}{options}" for name in ("in.txt", "out")]
    command = [sys.executable, "-m", "ray_segformer.cli", "predict", *uris, "--resume", "--shard-rows", "256"]
    resumed = store("done", options, "", count)
    goal = count if number == _DRIVERS - 1 else resumed + count // _DRIVERS
    environment, cluster = joined
    started = last = time.monotonic()
    kills, samples = 0, []
    with open(os.devnull, "wb") as nowhere:
        driver = subprocess.Popen(command, env={**os.environ, **environment}, stdout=nowhere, stderr=subprocess.PIPE)
    while driver.poll() is None:
        time.sleep(1)
        scoring = [process for process in psutil.Process(cluster).children(recursive=True) if _is_scoring(process)]
        samples.append((_megabytes(driver.pid), max((_megabytes(each.pid) for each in scoring), default=0.0)))
        if scoring and time.monotonic() - last > every:
            with contextlib.suppress(psutil.Error):
                random.choice(scoring).kill()
                kills += 1
            last = time.monotonic()
        if int(time.monotonic() - started) % 5 == 0:
            done = store("done", options, "", count)
            progress(f"night: driver {number + 1}, {done} of {count} images")
            if goal < count and done >= goal:
                driver.send_signal(signal.SIGKILL)
    error = driver.stderr.read().decode() if driver.stderr else ""
    if driver.returncode != (0 if goal == count else -signal.SIGKILL):
        raise RuntimeError(f"driver {number + 1} ended with {driver.returncode}: {error[-2000:]}")
    early = samples[min(60, len(samples) // 2)]
    late = [next((each for each in reversed(kind) if each), 0.0) for kind in zip(*samples, strict=True)]
    return {
        "name": f"driver {number + 1}" + (", killed" if goal < count else ""),
        "resumed": resumed,
        "seconds": time.monotonic() - started,
        "killed": kills,
        "driver_start": early[0],
        "scoring_start": early[1],
        "driver_end": late[0],
        "scoring_end": late[1],
        "samples": samples,
    }


def _is_scoring(process: psutil.Process) -> bool:
    try:
        title = "".join(process.cmdline()[:1])
    except psutil.Error:
        return False
    return title.startswith("ray::") and SCORING in title


def _megabytes(pid: int) -> float:
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0.0
    return (memory.rss - getattr(memory, "shared", 0)) / 2**20


def _cluster(cpus: int) -> Callable[[], tuple[dict[str, str], int]]:
    """Start a Ray that outlives its drivers. Return the environment in which they join it, and the process above it."""
    import ray

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, object_store_memory=500 * 2**20)
    address = ray.get_runtime_context().gcs_address
    # Ray sets the mode in the process that starts it, if it asks for a token.
    environment = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
    return lambda: (environment, os.getpid())


def _store() -> Callable[[str, str, str, int], Any]:
    import pyarrow.fs
    import pyarrow.parquet

    from ray_segformer.demo import write_scenes

    def fill(file_system: Any, folder: str, count: int) -> None:
        write_scenes(Path(folder), _SCENES, height=_SIDE, width=_SIDE)
        file_system.create_dir("night")
        names = sorted(path.name for path in Path(folder, "images").iterdir())
        for name in names:
            with file_system.open_output_stream(f"night/images/{name}") as file:
                file.write(Path(folder, "images", name).read_bytes())
        lines = [f"images/{names[number % len(names)]}" for number in range(count)]
        with file_system.open_output_stream("night/in.txt") as file:
            file.write("\n".join(lines).encode())

    def shards(file_system: Any) -> list[str]:
        selector = pyarrow.fs.FileSelector("night/out/masks", allow_not_found=True)
        return [info.path for info in file_system.get_file_info(selector) if info.path.endswith(".parquet")]

    sizes: dict[str, int] = {}

    def done(file_system: Any) -> int:
        for path in shards(file_system):
            if path not in sizes:
                sizes[path] = pyarrow.parquet.read_metadata(path, filesystem=file_system).num_rows
        return sum(sizes.values())

    def rows(file_system: Any) -> tuple[int, int]:
        indices: list[int] = []
        for path in shards(file_system):
            table = pyarrow.parquet.read_table(path, filesystem=file_system, columns=["index", "error"])
            indices += table.column("index").to_pylist()
            assert table.column("error").null_count == len(table)
        return len(indices), len(set(indices))

    def ask(what: str, options: str, folder: str, count: int) -> Any:
        file_system, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{_USER}night{options}&allow_bucket_creation=true")
        if what == "fill":
            return fill(file_system, folder, count)
        return done(file_system) if what == "done" else rows(file_system)

    return ask
