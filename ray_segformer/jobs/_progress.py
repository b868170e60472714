"""Progress on stderr: a bar on a terminal, and lines elsewhere, such as in the log of a job on a cluster."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray

_SECONDS = 0.5  # between two looks at what is done
_SECONDS_OF_LINES = 30.0  # between two lines

_Row = TypeVar("_Row")


def with_progress(rows: Iterable[_Row], count: int | None = None, unit: str = " images") -> Iterator[_Row]:
    """Yield the rows of a job, with a progress bar. `count` is their number; None if it is not known."""
    with _bar(count, unit=unit) as bar:
        for row in rows:
            yield row
            bar.update()


@contextlib.contextmanager
def progress_of_workers(totals: Any, count: Callable[[], int | None], done: int) -> Iterator[None]:
    """Show a progress bar of the images that workers have encoded, while the driver waits for their shards.

    Args:
        totals: the actor of `start_totals`.
        count: returns the number of all images; None as long as it is not known.
        done: the number of images that an earlier job has done.
    """
    ends = threading.Event()

    def watch(bar: Any) -> None:
        while not ends.wait(_SECONDS):
            with contextlib.suppress(ray.exceptions.RayError):
                encoded = ray.get(totals.get.remote(), timeout=_SECONDS)["encode"]["rows"]
                show(bar, done + int(encoded))

    def show(bar: Any, images: int) -> None:
        bar.total = count()
        # A batch that is repeated counts twice.
        new = (images if bar.total is None else min(images, bar.total)) - bar.n
        bar.update(max(new, 0))

    with _bar(count(), done) as bar:
        thread = threading.Thread(target=watch, args=(bar,), daemon=True)
        thread.start()
        try:
            yield
            show(bar, count() or 0)
        finally:
            ends.set()
            thread.join()


def _bar(count: int | None, done: int = 0, unit: str = " images") -> Any:
    if not sys.stderr.isatty():
        return _Lines(count, done, unit)
    from tqdm import tqdm

    return tqdm(total=count, initial=done, unit=unit, file=sys.stderr, mininterval=0.5)


class _Lines:
    """Prints a line every half minute, and one at the end. It is used as tqdm's bars are."""

    def __init__(self, total: int | None, done: int, unit: str) -> None:
        self.total, self.n, self._unit = total, done, unit
        self._done, self._started = done, time.monotonic()
        self._next = self._started + _SECONDS_OF_LINES

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._print()

    def update(self, new: int = 1) -> None:
        self.n += new
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_OF_LINES
            self._print()

    def _print(self) -> None:
        count = f"{self.n}" if self.total is None else f"{self.n} of {self.total}"
        rest = ""
        if self.n != self.total:  # The rate of a job that is done is said with its result.
            speed = (self.n - self._done) / max(time.monotonic() - self._started, 1e-9)
            rest = f", {speed:.2f}/s"
            if self.total is not None and speed > 0:
                rest += f", {round((self.total - self.n) / speed)} s left"
        print(f"{count}{self._unit}{rest}", file=sys.stderr, flush=True)
