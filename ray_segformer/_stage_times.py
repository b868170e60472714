"""The seconds and rows of each stage of a job, added up in the processes that do the work.

After each batch a process reports what it counted: to Ray's metrics, which its dashboard and Prometheus show, and to
the job's `StageTotals`, if there are any.

    ray_segformer_rows            rows by `stage`
    ray_segformer_seconds         seconds by `stage`
    ray_segformer_failures        rows without a mask, by `cause`
    ray_segformer_batch_seconds   a histogram: seconds that the predictor takes for a batch
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# "waiting" is the time that a predictor waits for its next batch.
STAGES = ("decode", "resize", "network", "argmax", "encode", "write", "waiting")

_TOTALS_NAME = "ray_segformer_stage_totals"
_JOB = "ray_segformer_job"  # in Ray Data's context: which job a task belongs to
_SECONDS_TO_NEXT_LOOKUP = 5.0  # of the totals' actor, until there is one; doubled after each lookup
_LATENCIES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]

# What this process counted since its last report.
_lock = threading.Lock()
_seconds: dict[str, float] = defaultdict(float)
_rows: dict[str, int] = defaultdict(int)
_failures: Counter[str] = Counter()
_batches: list[float] = []


@contextlib.contextmanager
def timed(stage: str, rows: int = 1) -> Iterator[None]:
    """Count the body of the `with` for one of `STAGES`. The seconds of several threads add up."""
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
    """Count a predicted batch: its seconds, and its rows without a mask by cause."""
    with _lock:
        _batches.append(seconds)
        _failures.update(causes)


class StageTotals:
    """The seconds and rows by stage that the processes of a job reported. It runs as an actor."""

    def __init__(self) -> None:
        self._job: str | None = None
        self._number = 0
        self._totals = _no_totals()
        self._changed = threading.Condition()

    def add(self, job: str | None, seconds: dict[str, float], rows: dict[str, int]) -> None:
        """Add the counts of a process. Those of an earlier job, whose last tasks may still run, are dropped."""
        with self._changed:
            for stage in seconds if job == self._job else ():
                self._totals[stage]["seconds"] += seconds[stage]
                self._totals[stage]["rows"] += rows[stage]
            self._changed.notify_all()

    def get(self) -> dict[str, dict[str, float]]:
        """Return `seconds` and `rows` by stage."""
        return self._totals

    def start(self, job: str | None) -> None:
        """Start again at zero, for another job."""
        with self._changed:
            self._job, self._number, self._totals = job, self._number + 1, _no_totals()
            self._changed.notify_all()

    def number(self) -> int:
        """Return the number of the job, for `wait_for_images`. The driver's first job is 1."""
        return self._number

    @ray.method(concurrency_group="waiting")  # Others are answered meanwhile, and so not in the order of the calls.
    def wait_for_images(self, number: int) -> None:
        """Return when the first images of the job with this number are decoded, or when another job is there."""
        with self._changed:
            self._changed.wait_for(lambda: self._number != number or self._totals["decode"]["rows"] > 0)


def _no_totals() -> dict[str, dict[str, float]]:
    return {stage: {"seconds": 0.0, "rows": 0} for stage in STAGES}


def start_totals() -> Any:
    """Return the `StageTotals` actor of this driver, for a new job. The first call starts it.

    The job is the one of the datasets that are created from now on.
    """
    global _started
    context = ray.get_runtime_context()
    driver = (context.get_node_id(), context.get_worker_id())  # They change with `ray.shutdown`.
    if _started is None or _started[0] != driver:
        of_class: Any = {"num_cpus": 0, "concurrency_groups": {"waiting": 1}}  # Ray's types lack the latter
        actor: Any = ray.remote(**of_class)(StageTotals)
        here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True)  # lost only if the driver's node is
        options = {"name": _TOTALS_NAME, "get_if_exists": True, "max_restarts": -1, "scheduling_strategy": here}
        _started = driver, actor.options(**options).remote()
    data_context = ray.data.DataContext.get_current()
    if hasattr(data_context, "set_config"):  # Ray Data hands these on to its workers; Ray 2.6 has none
        data_context.set_config(_JOB, uuid.uuid4().hex)
    _started[1].start.remote(_job())
    return _started[1]


# The driver, and its actor. Workers look the actor up once and use it for all later jobs. Ray would end it if the
# driver did not keep this handle.
_started: tuple[tuple[str, str], Any] | None = None


def _job() -> str | None:
    """Return the job of the dataset on which this process works, or of the next one in a driver."""
    context = ray.data.DataContext.get_current()
    return context.get_config(_JOB, None) if hasattr(context, "get_config") else None


def totals_by_stage(totals: Any, rows: int, timeout: float = 2.0) -> dict[str, dict[str, float]]:
    """Return the `seconds` and `rows` of a job by stage.

    Counts of a process that was killed are missing. All counts are missing if the actor died.

    Args:
        totals: the actor that `start_totals` returned.
        rows: how many rows the job wrote. Workers report without waiting, so the last reports may be on their way.
        timeout: seconds to wait for them.
    """
    until = time.monotonic() + timeout
    counted = _no_totals()
    with contextlib.suppress(ray.exceptions.RayError):  # Missing statistics must not fail a finished job.
        while counted["write"]["rows"] < rows and time.monotonic() < until:
            counted = ray.get(totals.get.remote(), timeout=timeout)
            time.sleep(0.05)
    return {stage: {unit: round(amount, 3) for unit, amount in counted[stage].items()} for stage in STAGES}


class _Reporter:
    """Ray's metrics in one process, and a handle of the job's totals. Ray puts `ray_` before the metrics' names."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter as RayCounter
        from ray.util.metrics import Histogram

        self.rows = RayCounter("segformer_rows", "Rows by stage", ("stage",))
        self.seconds = RayCounter("segformer_seconds", "Seconds by stage", ("stage",))
        self.failures = RayCounter("segformer_failures", "Rows without a mask, by cause", ("cause",))
        self.latency = Histogram("segformer_batch_seconds", "Seconds of a batch in the predictor", _LATENCIES)
        self._totals: Any = None
        self._next_lookup, self._pause = 0.0, _SECONDS_TO_NEXT_LOOKUP

    def totals(self) -> Any:
        """Return the job's `StageTotals` actor, or None."""
        if self._totals is None and time.monotonic() >= self._next_lookup:
            self._next_lookup, self._pause = time.monotonic() + self._pause, 2 * self._pause
            with contextlib.suppress(ValueError):  # no actor of this name
                self._totals = ray.get_actor(_TOTALS_NAME)
        return self._totals


_reporter: _Reporter | None = None


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Report at the end of the `with` block, also if it fails: the process may work for another job next."""
    try:
        yield
    finally:
        report()


def report() -> None:
    """Report what this process counted, and start again at zero. Only workers of Ray report; others drop the counts."""
    global _reporter
    with _lock:
        seconds, rows, failures, batches = dict(_seconds), dict(_rows), dict(_failures), list(_batches)
        for counts in (_seconds, _rows, _failures, _batches):
            counts.clear()
    if not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return
    _reporter = _reporter or _Reporter()
    for stage, amount in seconds.items():
        if amount > 0:
            _reporter.seconds.inc(amount, {"stage": stage})
    for stage, number in rows.items():
        if number > 0:
            _reporter.rows.inc(number, {"stage": stage})
    for cause, number in failures.items():
        _reporter.failures.inc(number, {"cause": cause})
    for batch in batches:
        _reporter.latency.observe(batch)
    totals = _reporter.totals()
    if totals is not None and seconds:
        totals.add.remote(_job(), seconds, rows)
