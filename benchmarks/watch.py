"""Sample the memory and progress of a job on Ray while it runs, and kill its workers."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from pathlib import Path

import psutil

_SECONDS = 0.5
SCORING = "ScoringWorker"


class Watch(contextlib.AbstractContextManager):
    """Samples this process (the driver) and Ray's processes below it, and can kill scoring workers.

        with Watch(folder, kill_every=60) as watch:
            for batch in batches:
                watch.rows += len(batch)

    Args:
        spilled: the folder to which Ray spills (`object_spilling_directory`).
        kill_every: seconds between kills (SIGKILL); None for no kills.

    Attributes:
        rows: the number of rows done; the consumer of the job counts them here.
        samples: `seconds`, `rows`, and in MB: `driver`, `scoring` (the largest scoring worker), `others` (the largest
            other worker), `all` (all of these processes together), `store` (the object store in use), `spilled` (to
            disk, so far). Memory that a process shares with others (libraries, object store) is not counted.
        kills: the times of the kills, in seconds.
    """

    def __init__(self, spilled: str, kill_every: float | None = None) -> None:
        self.rows = 0
        self.samples: list[dict[str, float]] = []
        self.kills: list[float] = []
        self._kill_every = kill_every
        self._started = time.perf_counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._store = _Store(spilled)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def quarters(self) -> list[dict[str, float]]:
        """Return the samples when a quarter, half, three quarters and all of the rows were done."""
        return [
            next(sample for sample in self.samples if sample["rows"] >= self.rows * part) for part in (0.25, 0.5, 0.75)
        ] + self.samples[-1:]

    def _run(self) -> None:
        chance = random.Random(0)
        while not self._ended.wait(_SECONDS):
            seconds = time.perf_counter() - self._started
            workers = _workers()
            self.samples.append(
                {"seconds": seconds, "rows": self.rows, **_memory(workers), **self._store.used_and_spilled()}
            )
            # The first interval starts with the first row, because no worker scores before.
            if self._kill_every is None or not self.rows:
                last = seconds
            elif seconds - max([last, *self.kills]) >= self._kill_every:
                scoring = [process for process, title in workers if SCORING in title]
                if scoring:
                    with contextlib.suppress(psutil.Error):
                        chance.choice(scoring).kill()
                        self.kills.append(seconds)
        self.samples.append({**self.samples[-1], "seconds": time.perf_counter() - self._started, "rows": self.rows})


class _Store:
    """Measures how full the object store is, and what it has spilled: the sum of the largest size seen of each file."""

    def __init__(self, spilled: str) -> None:
        import ray

        self._spilled = Path(spilled)
        self._files: dict[str, int] = {}
        self._all = ray.cluster_resources()["object_store_memory"]

    def used_and_spilled(self) -> dict[str, float]:
        """Return the `store` in use and the total `spilled` so far, in MB."""
        import ray

        for path in self._spilled.rglob("*"):
            with contextlib.suppress(OSError):  # Ray deletes the file of an object that is freed
                if path.is_file():
                    self._files[str(path)] = max(path.stat().st_size, self._files.get(str(path), 0))
        used = self._all - ray.available_resources().get("object_store_memory", 0)
        return {"store": used / 2**20, "spilled": sum(self._files.values()) / 2**20}


def _workers() -> list[tuple[psutil.Process, str]]:
    """Return the processes below this one that run actors or tasks of Ray, with their titles."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = "".join(process.cmdline()[:1])
            if title.startswith("ray::"):
                found.append((process, title))
    return found


def _memory(workers: list[tuple[psutil.Process, str]]) -> dict[str, float]:
    driver = _own(psutil.Process())
    scoring, others = [0.0], [0.0]
    for process, title in workers:
        with contextlib.suppress(psutil.Error):
            (scoring if SCORING in title else others).append(_own(process))
    total = driver + sum(scoring) + sum(others)
    return {"driver": driver, "scoring": max(scoring), "others": max(others), "all": total}


def _own(process: psutil.Process) -> float:
    memory = process.memory_info()
    return (memory.rss - getattr(memory, "shared", 0)) / 2**20
