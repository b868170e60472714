"""Where a job's time goes: seconds and rows of each stage, added up in the processes that do the work.

After each batch a process hands over what it has: to Ray's metrics, which its dashboard and Prometheus show, and to the
job's `Ledger`, if it has one.

    ray_segformer_rows            rows by `stage`
    ray_segformer_seconds         seconds by `stage`
    ray_segformer_failures        rows without a mask, by `cause`
    ray_segformer_batch_seconds   a histogram: how long a batch takes in the predictor
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# "waiting" is that of a predictor for its next batch.
STAGES = ("decode", "resize", "network", "argmax", "encode", "waiting")

_LEDGER_NAME = "ray_segformer_ledger"
_LOOK_AGAIN = 5.0  # seconds, for a ledger where there was none; each time twice as long
_LATENCIES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]

_lock = threading.Lock()
_seconds: dict[str, float] = defaultdict(float)
_rows: dict[str, int] = defaultdict(int)
_failures: Counter[str] = Counter()
_batches: list[float] = []


@contextlib.contextmanager
def timed(stage: str, rows: int = 1) -> Iterator[None]:
    """Count what is done inside of a `with` for one of `STAGES`. Threads' seconds add up."""
    started = time.perf_counter()
    try:
        yield
    finally:
        count(stage, time.perf_counter() - started, rows)


def count(stage: str, seconds: float, rows: int) -> None:
    """Count seconds and rows for one of `STAGES`."""
    with _lock:
        _seconds[stage] += seconds
        _rows[stage] += rows


def count_batch(seconds: float, causes: Counter[str]) -> None:
    """Count a predicted batch: how long it took, and its rows without a mask, by cause."""
    with _lock:
        _batches.append(seconds)
        _failures.update(causes)


class Ledger:
    """What the processes of a job handed over."""

    def __init__(self) -> None:
        self._counts = _nothing()

    def add(self, seconds: dict[str, float], rows: dict[str, int]) -> None:
        """Add a process's counts."""
        for stage in seconds:
            self._counts[stage]["seconds"] += seconds[stage]
            self._counts[stage]["rows"] += rows[stage]

    def take(self) -> dict[str, dict[str, float]]:
        """`seconds` and `rows` by stage, since they were last taken."""
        taken, self._counts = self._counts, _nothing()
        return taken


def _nothing() -> dict[str, dict[str, float]]:
    return {stage: {"seconds": 0.0, "rows": 0} for stage in STAGES}


def start_ledger() -> Any:
    """An actor, the ledger of this driver's jobs: the one that is there, emptied, or a new one."""
    global _started
    context = ray.get_runtime_context()
    driver = (context.get_node_id(), context.get_worker_id())  # others after `ray.shutdown`
    if _started is None or _started[0] != driver:
        actor: Any = ray.remote(num_cpus=0)(Ledger)
        here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True)  # lost only where the driver is, too
        options = {"name": _LEDGER_NAME, "get_if_exists": True, "max_restarts": -1, "scheduling_strategy": here}
        _started = driver, actor.options(**options).remote()
    _started[1].take.remote()  # what earlier jobs left: those that broke off, or of which nobody asks
    return _started[1]


# Without this first handle the actor would end, and workers know it from the first job on.
_started: tuple[tuple[str, str], Any] | None = None


def stages_of(ledger: Any, rows: int, timeout: float = 2.0) -> dict[str, dict[str, float]]:
    """What a job's processes handed over, by stage.

    Args:
        ledger: the job's.
        rows: how many were encoded. Handing over is not waited for elsewhere: the last may still be on their way.
        timeout: seconds to wait for them. What a process had when it was killed, or a ledger that died, is missing.
    """
    until = time.monotonic() + timeout
    taken = _nothing()
    with contextlib.suppress(ray.exceptions.RayError):  # the images are done, whatever becomes of their statistics
        while taken["encode"]["rows"] < rows and time.monotonic() < until:
            for stage, more in ray.get(ledger.take.remote(), timeout=timeout).items():
                for what, amount in more.items():
                    taken[stage][what] += amount
            time.sleep(0.05)
    return {stage: {what: round(amount, 3) for what, amount in taken[stage].items()} for stage in STAGES}


class _Outlet:
    """Of a process: Ray's metrics, to whose names Ray adds `ray_`, and where the ledger is."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter as RayCounter
        from ray.util.metrics import Histogram

        self.rows = RayCounter("segformer_rows", "Rows by stage", ("stage",))
        self.seconds = RayCounter("segformer_seconds", "Seconds by stage", ("stage",))
        self.failures = RayCounter("segformer_failures", "Rows without a mask, by cause", ("cause",))
        self.latency = Histogram("segformer_batch_seconds", "Seconds of a batch in the predictor", _LATENCIES)
        self._ledger: Any = None
        self._look_at, self._pause = 0.0, _LOOK_AGAIN

    def ledger(self) -> Any:
        """The job's, or None."""
        if self._ledger is None and time.monotonic() >= self._look_at:
            self._look_at, self._pause = time.monotonic() + self._pause, 2 * self._pause
            with contextlib.suppress(ValueError):  # there is none
                self._ledger = ray.get_actor(_LEDGER_NAME)
        return self._ledger


_outlet: _Outlet | None = None


def hand_over() -> None:
    """Hand over what this process has counted; nothing where it is no worker of Ray's."""
    global _outlet
    with _lock:
        seconds, rows, failures, batches = dict(_seconds), dict(_rows), dict(_failures), list(_batches)
        for counted in (_seconds, _rows, _failures, _batches):
            counted.clear()
    if not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return
    _outlet = _outlet or _Outlet()
    for stage, amount in seconds.items():
        if amount > 0:
            _outlet.seconds.inc(amount, {"stage": stage})
    for stage, number in rows.items():
        if number > 0:
            _outlet.rows.inc(number, {"stage": stage})
    for cause, number in failures.items():
        _outlet.failures.inc(number, {"cause": cause})
    for batch in batches:
        _outlet.latency.observe(batch)
    ledger = _outlet.ledger()
    if ledger is not None and seconds:
        ledger.add.remote(seconds, rows)
