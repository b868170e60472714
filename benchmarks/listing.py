"""Start jobs on millions of images: how soon are the first masks there, and what memory does the driver take?"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.made_up_s3 import FOLDER, made_up_s3
from benchmarks.measure import Table, progress
from benchmarks.process import Child
from benchmarks.settings import Settings

_FILES = 1_000_000  # that are made on the disk; listings of more are made up
_PER_FOLDER = 10_000
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


def run(settings: Settings) -> list[Table]:
    """Return a table of inputs by their number of images."""
    most = 300_000 if settings.quick else 10_000_000
    files = 150_000 if settings.quick else _FILES
    os.environ.update(_CREDENTIALS)
    with (
        tempfile.TemporaryDirectory(prefix="segformer_benchmark_", dir=_roomy()) as folder,
        Child(made_up_s3, settings.photos[0], threads=1) as store,
    ):
        progress("listing: making files")
        inputs = [
            ("one folder", files, _one_folder(Path(folder, "flat"), settings.photos[0], files)),
            (f"folders of {_PER_FOLDER:,}", files, _folders(Path(folder, "tree"), settings.photos[0], files)),
            ("a list file", most, _list(Path(folder, "list.txt"), settings.photos[0], most)),
            ("a folder on S3", most, f"s3://bucket/{FOLDER}{store(most)}"),
        ]
        rows = []
        for name, count, source in inputs:
            progress(f"listing: {name}, the first masks")
            seconds, at_first = _first_masks(settings, source, f"{folder}/out{len(rows)}")
            progress(f"listing: {name}, all")
            with Child(_drive, threads=1) as drive:
                listed, all_seconds, growth = drive(source)
            assert listed == count
            rows.append(
                {
                    "name": name,
                    "images": count,
                    "first": seconds,
                    "driver": at_first,
                    "all": all_seconds,
                    "growth": growth,
                    "driver_at_most": at_first + growth,
                }
            )
    progress("")
    columns = {
        "name": "input",
        "images": "images",
        "first": "first masks after, s",
        "driver": "driver then, MB",
        "all": "all listed in, s",
        "growth": "driver grows by, MB",
        "driver_at_most": "driver at most, MB",
    }
    notes = [
        "First masks: from the start of the command `predict` to the first shard, of 8 rows. Then the command is "
        "killed. A driver that only lists goes through all rounds: that is what grows. Objects on S3 are made up by a "
        "server on this machine, a page of 1000 in about 2 ms; S3 takes 30 to 100 ms for it."
    ]
    return [Table("Inputs of many images", columns, rows, notes)]


def _first_masks(settings: Settings, source: str, output: str) -> tuple[float, float]:
    """Return the seconds to the first shard of `predict`, and the driver's own memory then, in MB."""
    command = [sys.executable, "-m", "ray_segformer.cli", "predict", source, output, "--model", settings.model]
    command += ["--shard-rows", "8", "--batch-size", "2", "--workers", "1", "--on-error", "keep"]
    started = time.perf_counter()
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not [*Path(output).glob("masks/part-*.parquet")]:
            if driver.poll() is not None:
                raise RuntimeError(f"predict ended with exit code {driver.returncode}: {' '.join(command)}")
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        memory = psutil.Process(driver.pid).memory_info()
        return seconds, (memory.rss - memory.shared) / 1e6
    finally:
        for process in [*psutil.Process(driver.pid).children(recursive=True), psutil.Process(driver.pid)]:
            process.kill()
        driver.wait()


def _drive() -> Callable[[str], tuple[int, float, float]]:
    import ray

    from benchmarks.streaming import start_ray
    from ray_segformer.inputs import ListedAhead, find_rounds

    start_ray(2, 2**30, tempfile.mkdtemp(prefix="segformer_benchmark_spilled_"))

    def drive(source: str) -> tuple[int, float, float]:
        """List all rounds of an input, and make their datasets. Return the images, the seconds, and the MB at most."""
        assert ray.is_initialized()
        before, started, count = psutil.Process().memory_info().rss, time.perf_counter(), 0
        with ListedAhead(find_rounds(source)) as rounds:
            for images in rounds:
                dataset: Any = images.dataset()
                dataset.take(1)
                count += images.rows
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return count, time.perf_counter() - started, (most - before) / 1e6

    return drive


def _roomy() -> str | None:
    """Return a folder where a million files are made quickly: in memory, if there is room for them."""
    memory = "/dev/shm"
    return memory if os.path.isdir(memory) and os.statvfs(memory).f_favail > 3 * _FILES else None


def _one_folder(folder: Path, photo: str, count: int) -> str:
    folder.mkdir()
    _fill(folder, photo, count)
    return str(folder)


def _folders(folder: Path, photo: str, count: int) -> str:
    for number in range(0, count, _PER_FOLDER):
        part = folder / f"{number // _PER_FOLDER:05d}"
        part.mkdir(parents=True)
        _fill(part, photo, min(_PER_FOLDER, count - number))
    return str(folder)


def _fill(folder: Path, photo: str, count: int) -> None:
    for number in range(count):
        os.symlink(photo, folder / f"{number:08d}.jpg")


def _list(path: Path, photo: str, count: int) -> str:
    """Write a list of the first photo, and of files that are not there."""
    with open(path, "w") as file:
        file.write(f"{photo}\n")
        for number in range(1, count):
            file.write(f"/photos/of/the/year/{number:08d}.jpg\n")
    return str(path)
