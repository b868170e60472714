"""A progress bar over the rows of a job."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any


def with_progress(rows: Iterable[dict[str, Any]], count: int | None = None, done: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the rows, with a progress bar on stderr.

    Args:
        rows: the rows that are still to come.
        count: the number of all rows, including those that are done; None if it is not known.
        done: the number of rows that an earlier run has done.
    """
    from tqdm import tqdm

    with tqdm(total=count, initial=done, unit=" images", file=sys.stderr, mininterval=0.5) as bar:
        for row in rows:
            yield row
            bar.update()
