"""A progress bar over the rows of a job."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any


def with_progress(rows: Iterable[dict[str, Any]], count: int | None = None, done: int = 0) -> Iterator[dict[str, Any]]:
    """The same rows, with a progress bar on stderr; of `count` in all, if that is known, `done` were before."""
    from tqdm import tqdm

    with tqdm(total=count, initial=done, unit=" images", file=sys.stderr, mininterval=0.5) as bar:
        for row in rows:
            yield row
            bar.update()
