"""Measure comparable times: contestants take turns, so that other load on the machine affects all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

# Before each run, all contestants are idle, so that any load comes from something else. Wait `_PAUSE` seconds first,
# because OpenMP's threads may spin for milliseconds after a run. Then watch for `_LISTEN` seconds; the run counts as
# disturbed if the processors were busy for more than the share `_BUSY`.
_PAUSE = 0.02
_LISTEN = 0.06
_BUSY = 0.2

# The number of runs since `disturbances` was last called, and how many of them were disturbed.
_runs = {"all": 0, "disturbed": 0}


@dataclass(frozen=True)
class Contestant:
    """One row of a table.

    Attributes:
        name: the row's name in the table.
        side: "peer", "ours" or "floor".
        run: runs it once, and returns the seconds for an image, or whatever the table shows.
        peer: the name of the row that it is compared with; None for no ratio.
    """

    name: str
    side: str
    run: Callable[[], Any]
    peer: str | None = None


@dataclass
class Table:
    """A table. `columns` maps keys of the rows to headings; further keys of a row go to the JSON only."""

    title: str
    columns: dict[str, str]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


# The columns of the rows that `compare` returns.
TIME_COLUMNS = {
    "name": "",
    "ms": "ms/image",
    "best": "best",
    "ratio": "times the peer's speed",
    "ratio_by_round": "by round",
    "peer": "peer",
}


def timed(function: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    """Return a function that calls `function` and returns the seconds it took."""

    def run() -> float:
        started = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - started

    return run


def take_turns(contestants: Sequence[Contestant], rounds: int, warm_up: bool = True) -> dict[str, list[Any]]:
    """Run each contestant once unmeasured, then all in turn, `rounds` times. Return their results by name."""
    samples: dict[str, list[Any]] = {contestant.name: [] for contestant in contestants}
    for number in range(0 if warm_up else 1, rounds + 1):
        for contestant in contestants:
            progress(f"{'warm-up' if number == 0 else f'round {number} of {rounds}'}: {contestant.name}")
            _listen()
            sample = contestant.run()
            if number > 0:
                samples[contestant.name].append(sample)
    progress("")
    return samples


def disturbances() -> float | None:
    """Return the share of disturbed runs since the last call; None if there were no runs."""
    share = _runs["disturbed"] / _runs["all"] if _runs["all"] else None
    _runs.update(all=0, disturbed=0)
    return share


def _listen() -> None:
    time.sleep(_PAUSE)
    before = _jiffies()
    time.sleep(_LISTEN)
    busy, idle = (after - first for after, first in zip(_jiffies(), before, strict=True))
    _runs["all"] += 1
    _runs["disturbed"] += busy > _BUSY * (busy + idle)


def _jiffies() -> tuple[int, int]:
    """Return how long the processors were busy and idle since the machine started, in jiffies."""
    try:
        with open("/proc/stat", encoding="utf-8") as file:
            times = [int(field) for field in file.readline().split()[1:9]]
    except OSError:  # not Linux: no run counts as disturbed
        return 0, 0
    idle = times[3] + times[4]
    return sum(times) - idle, idle


def compare(
    contestants: Sequence[Contestant], rounds: int, images: int = 1, warm_up: bool = True
) -> list[dict[str, Any]]:
    """Return the rows of a table of times, from contestants that return the seconds for `images` images."""
    samples = take_turns(contestants, rounds, warm_up)
    return rows(contestants, {name: [sample / images for sample in samples[name]] for name in samples})


def rows(contestants: Sequence[Contestant], seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return the rows of a table of times.

    Args:
        contestants: in the order of the table.
        seconds: the seconds for an image, by name; those of one round have the same index.

    Returns:
        Rows with `name`, `side`, `peer`, `samples` and `median` (seconds for an image), `ms`, `best` (ms of the
        fastest round), `images_per_second`, and with a peer `ratio`, the peer's median divided by the own one, and
        `ratio_by_round`, the median of the rounds' ratios.
    """
    table = []
    for contestant in contestants:
        own = seconds[contestant.name]
        median = statistics.median(own)
        row = {
            "name": contestant.name,
            "side": contestant.side,
            "peer": contestant.peer,
            "samples": own,
            "median": median,
            "ms": median * 1000,
            "best": min(own) * 1000,
            "images_per_second": 1 / median,
        }
        if contestant.peer is not None:
            theirs = seconds[contestant.peer]
            row["ratio"] = statistics.median(theirs) / median
            row["ratio_by_round"] = statistics.median(a / b for a, b in zip(theirs, own, strict=True))
        table.append(row)
    return table


def progress(text: str) -> None:
    """Show on a terminal what runs now."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)
