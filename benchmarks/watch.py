"""Memory and progress of a job on Ray, sampled while it runs; and the death of its workers."""

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
    """Samples this process, which is the driver, and Ray's below it; and kills a scoring worker now and then.

        with Watch(folder, kill_every=60) as watch:
            for batch in batches:
                watch.rows += len(batch)

    Args:
        spilled: the folder to which Ray spills (`object_spilling_directory`).
        kill_every: seconds between kills (SIGKILL); None for none.

    Attributes:
        rows: to be counted by whoever consumes them.
        samples: `seconds`, `rows`, and in MB: `driver`, `scoring` (the largest scoring worker), `others` (the largest
            other worker), `all` (all of these processes together), `store` (the object store in use), `spilled` (to
            disk, so far). What a process shares with others, libraries and object store, does not count as its own.
        kills: when, in seconds.
    """

    def __init__(self, spilled: str, kill_every: float | None = None):
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
        """The samples when a quarter, half, three quarters and all of the rows were done."""
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
            # The first minute counts from the first row: until then, nobody scores.
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
    """The object store's use, and what it wrote to files: each counts, as large as it was ever seen."""

    def __init__(self, spilled: str):
        import ray

        self._spilled = Path(spilled)
        self._files: dict[str, int] = {}
        self._all = ray.cluster_resources()["object_store_memory"]

    def used_and_spilled(self) -> dict[str, float]:
        """In MB."""
        import ray

        for path in self._spilled.rglob("*"):
            with contextlib.suppress(OSError):  # objects that are freed take their file along
                if path.is_file():
                    self._files[str(path)] = max(path.stat().st_size, self._files.get(str(path), 0))
        used = self._all - ray.available_resources().get("object_store_memory", 0)
        return {"store": used / 2**20, "spilled": sum(self._files.values()) / 2**20}


def _workers() -> list[tuple[psutil.Process, str]]:
    """Ray's processes below this one with a title, which actors and tasks have."""
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
