"""Progress bars on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray

_SECONDS = 0.5  # between two looks at what is done

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
        if new > 0:
            bar.update(new)

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
    from tqdm import tqdm

    return tqdm(total=count, initial=done, unit=unit, file=sys.stderr, mininterval=0.5)
