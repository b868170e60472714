"""How often the start of a scoring worker, and a batch that ends its process, are tried.

What Ray Data does by itself, on 2.55 as on 2.60: a constructor that raises ends the job, were it for a moment's cause.
An actor whose process dies is started again, and its tasks are repeated, without end, also where each process dies in
its constructor, or of the same batch. `max_task_retries` is no remedy: while a lost node is not known to be lost, Ray
spends a handful in a moment.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import ray
from ray.experimental import internal_kv

STARTS = 3
BATCH_ATTEMPTS = 5  # of processes after an actor's first
_PAUSE = 1.0  # seconds

# What may be over in a moment: files, GPUs, memory and objects that are not there yet, or still another's. All else,
# `CheckpointError` (a ValueError) before all, says that the model cannot be loaded.
_PASSING = (OSError, RuntimeError, MemoryError, EOFError, ray.exceptions.RayError)
_NAMESPACE = b"ray_segformer_starts"

T = TypeVar("T")


class DeadlyBatchError(RuntimeError):
    """A batch ended the process of every worker that scored it."""


class WorkerStartError(RuntimeError):
    """The processes of a scoring worker died while they loaded the model."""


def start(load: Callable[[], T]) -> T:
    """What `load` returns, in the constructor of an actor, if need be in the third attempt.

    Raises:
        WorkerStartError: the actor's last three processes died in here, one after the other.
        Exception: what `load` raised; if it may be a moment's, in each attempt.
    """
    actor = (ray.get_runtime_context().get_actor_id() or "none").encode()  # the same after Ray started it again
    started = _noted(actor)
    try:
        if started >= STARTS:
            raise WorkerStartError(
                f"the process of a scoring worker died {started} times in a row while it loaded the model, and is not "
                "started again. It may need more memory than there is, or crash; Ray's logs "
                "(/tmp/ray/session_latest/logs/, of the worker and of the raylet) hold its last words."
            )
        while True:
            started += 1
            _note(actor, started)
            try:
                return load()
            except _PASSING as error:
                if started >= STARTS or isinstance(error, NotImplementedError):
                    raise
                time.sleep(_PAUSE)
    finally:  # not where the process dies
        _forget(actor)


class Attempts:
    """Counts how often batches were begun, in an actor that Ray started again; before, there is nothing to count."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        self._counting = context.get_actor_id() is not None and context.was_current_actor_reconstructed
        self._task: str | None = None
        self._batches = 0

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Around the scoring of a batch.

        Raises:
            DeadlyBatchError: the processes that began it before are dead.
        """
        if not self._counting:
            yield
            return
        task = ray.get_runtime_context().get_task_id()  # the same when it is repeated
        self._batches = self._batches + 1 if task == self._task else 0
        self._task = task
        key = f"{task} {self._batches}".encode()
        begun = _noted(key)
        try:
            if begun >= BATCH_ATTEMPTS:
                raise DeadlyBatchError(
                    f"a batch ended {begun + 1} processes of a scoring worker, one after the other, and is not tried "
                    "again. It may need more memory than there is (a smaller batch_size, or max_pixels, may help), or "
                    "crash a library; Ray's logs (/tmp/ray/session_latest/logs/) tell more."
                )
            _note(key, begun + 1)
            yield
        finally:
            _forget(key)


def _noted(key: bytes) -> int:
    """What Ray's cluster-wide store, which outlives workers, has under a key; 0 for nothing."""
    return int(internal_kv._internal_kv_get(key, namespace=_NAMESPACE) or 0)


def _note(key: bytes, count: int) -> None:
    internal_kv._internal_kv_put(key, str(count).encode(), overwrite=True, namespace=_NAMESPACE)


def _forget(key: bytes) -> None:
    internal_kv._internal_kv_del(key, namespace=_NAMESPACE)
