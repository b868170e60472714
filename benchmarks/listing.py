"""Start jobs on millions of images: how soon are the first images read, and what memory does the driver take?"""

from __future__ import annotations

import os
import tempfile
import threading
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
_OBJECTS = 2_000_000
_PER_FOLDER = 10_000
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


def run(settings: Settings) -> list[Table]:
    """Return a table of inputs by their number of images."""
    most = 300_000 if settings.quick else 10_000_000
    files = 150_000 if settings.quick else _FILES
    objects = 150_000 if settings.quick else _OBJECTS
    os.environ.update(_CREDENTIALS)
    with (
        tempfile.TemporaryDirectory(prefix="segformer_benchmark_", dir=_roomy()) as folder,
        Child(made_up_s3, settings.photos[0], threads=1) as store,
    ):
        progress("listing: making files")
        inputs = [
            ("a list file", 24, _list(Path(folder, "few.txt"), settings.photos[0], 24)),
            ("one folder", files, _one_folder(Path(folder, "flat"), settings.photos[0], files)),
            (f"folders of {_PER_FOLDER:,}", files, _folders(Path(folder, "tree"), settings.photos[0], files)),
            ("a list file", most, _list(Path(folder, "list.txt"), settings.photos[0], most)),
            ("a folder on S3", objects, f"s3://bucket/{FOLDER}{store(objects)}"),
        ]
        rows = []
        for name, count, source in inputs:
            progress(f"listing: {name}, the first images")
            seconds, at_first = _first_images(settings, source, f"{folder}/out{len(rows)}")
            progress(f"listing: {name}, all")
            with Child(_drive, f"{folder}/spilled", threads=1) as drive:
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
        "first": "first images decoded after, s",
        "driver": "driver then, MB",
        "all": "all listed in, s",
        "growth": "driver grows by, MB",
        "driver_at_most": "driver at most, MB",
    }
    notes = [
        "First images: from the start of a process that imports, loads a model and calls `predict`, which starts Ray. "
        "Another process goes through all rounds without a network; what it takes then is added. The object store does "
        "not count. Objects on S3 are made up by a server on this machine, a page of 1000 in about 2 ms; S3 takes 30 "
        "to 100 ms for it."
    ]
    return [Table("Inputs of many images", columns, rows, notes)]


def _first_images(settings: Settings, source: str, output: str) -> tuple[float, float]:
    """Return the seconds until `predict` has decoded images, and the driver's own memory then, in MB."""
    started = time.time()
    with Child(_predict, settings.model, threads=1) as predict:
        ended, memory = predict(source, output)
    return ended - started, memory


def _predict(model: str) -> Callable[[str, str], tuple[float, float]]:
    import ray

    from ray_segformer import SegformerCheckpoint
    from ray_segformer.jobs import predict

    checkpoint = SegformerCheckpoint.from_pretrained(model)

    def decoded() -> float:
        if not ray.is_initialized():
            return 0
        try:
            return ray.get(ray.get_actor("ray_segformer_stage_totals").get.remote())["decode"]["rows"]
        except ValueError:  # the job has not started
            return 0

    def start(source: str, output: str) -> tuple[float, float]:
        """Start a job, and return when the first images are decoded: the time, and the driver's memory in MB."""
        options = {"on_error": "keep", "batch_size": 2, "workers": 1, "progress": False}
        threading.Thread(target=predict, args=(source, output, checkpoint), kwargs=options, daemon=True).start()
        while not decoded():
            time.sleep(0.05)
        return time.time(), _own_memory()

    return start


def _own_memory() -> float:
    """Return this process's memory in MB, without what it shares, such as the object store."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e6


def _drive(spilled: str) -> Callable[[str], tuple[int, float, float]]:
    import ray

    from benchmarks.streaming import start_ray
    from ray_segformer.inputs import ListedAhead, find_rounds

    start_ray(2, 2**30, spilled)

    def drive(source: str) -> tuple[int, float, float]:
        """List all rounds of an input, and make their datasets. Return the images, the seconds, and the MB at most."""
        assert ray.is_initialized()
        before, started, count = _own_memory(), time.perf_counter(), 0
        most, ends = [before], threading.Event()

        def watch() -> None:
            while not ends.wait(0.02):
                most[0] = max(most[0], _own_memory())

        threading.Thread(target=watch, daemon=True).start()
        rounds = ListedAhead(find_rounds(source))
        for images in rounds:
            dataset: Any = images.dataset()
            dataset.take(1)
            rounds.list_next()
            count += images.rows
        ends.set()
        return count, time.perf_counter() - started, most[0] - before

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
