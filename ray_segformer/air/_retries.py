"""Limits on retries: how many attempts a scoring worker has to load its model, and to score a batch.

Ray Data has no such limits (seen on Ray 2.55 and 2.60):

* An actor whose constructor raises ends the job, even if the error is temporary.
* An actor whose process dies is restarted, and its tasks are repeated, without end. This holds also if each process
  dies in the constructor, or on the same batch.

`max_task_retries` does not help. Until Ray knows that a node is lost, it uses up several retries within a moment.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import ray
from ray.experimental import internal_kv

MAX_LOAD_ATTEMPTS = 3
MAX_BATCH_RETRIES = 5
_SECONDS_BETWEEN_LOADS = 1.0

# Errors that may be temporary: files, GPUs, memory or objects that are not there yet, or that another process still
# uses. Any other error, such as `CheckpointError` (a ValueError), says that the model cannot be loaded.
_TEMPORARY_ERRORS = (OSError, RuntimeError, MemoryError, EOFError, ray.exceptions.RayError)
_NAMESPACE = b"ray_segformer_starts"

T = TypeVar("T")


class DeadlyBatchError(RuntimeError):
    """A batch ended the process of every worker that scored it."""


class WorkerStartError(RuntimeError):
    """The processes of a scoring worker died while they loaded the model."""


def load_with_retries(load: Callable[[], T]) -> T:
    """Call `load` in the constructor of an actor. Retry temporary errors, up to `MAX_LOAD_ATTEMPTS` attempts in all.

    Attempts are counted over all processes of the actor.

    Returns:
        What `load` returns.

    Raises:
        WorkerStartError: the last three processes of the actor died in here, one after the other.
        Exception: `load` raised an error that is not temporary, or a temporary one in the last attempt.
    """
    actor = (ray.get_runtime_context().get_actor_id() or "none").encode()  # Ray keeps the id in a restart.
    attempts = _read_count(actor)
    try:
        if attempts >= MAX_LOAD_ATTEMPTS:
            raise WorkerStartError(
                f"the process of a scoring worker died {attempts} times in a row while it loaded the model, and is not "
                "started again. The model may need more memory than there is, or a library crashes; see the logs of "
                "the worker and of the raylet in /tmp/ray/session_latest/logs/"
            )
        while True:
            attempts += 1
            _write_count(actor, attempts)
            try:
                return load()
            except _TEMPORARY_ERRORS as error:
                if attempts >= MAX_LOAD_ATTEMPTS or isinstance(error, NotImplementedError):
                    raise
                time.sleep(_SECONDS_BETWEEN_LOADS)
    finally:  # This does not run if the process dies, so the count stays for the next process.
        _delete_count(actor)


class BatchAttempts:
    """Counts how often an actor tried each batch. It counts only after Ray restarted the actor."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        self._counting = context.get_actor_id() is not None and context.was_current_actor_reconstructed
        self._task: str | None = None
        self._number = 0  # of the batch within its task

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Count one attempt; the body of the `with` scores the batch.

        Raises:
            DeadlyBatchError: too many earlier attempts ended with the death of the process.
        """
        if not self._counting:
            yield
            return
        task = ray.get_runtime_context().get_task_id()  # Ray keeps the id when it repeats a task.
        self._number = self._number + 1 if task == self._task else 0
        self._task = task
        key = f"{task} {self._number}".encode()
        retries = _read_count(key)
        try:
            if retries >= MAX_BATCH_RETRIES:
                raise DeadlyBatchError(
                    f"a batch ended {retries + 1} processes of a scoring worker, one after the other, and is not tried "
                    "again. It may need more memory than there is (try a smaller batch_size or max_pixels), or a "
                    "library crashes; see Ray's logs in /tmp/ray/session_latest/logs/"
                )
            _write_count(key, retries + 1)
            yield
        finally:
            _delete_count(key)


# Counts are in Ray's key-value store, which belongs to the cluster and outlives a worker's process.


def _read_count(key: bytes) -> int:
    """Return the count stored for a key; 0 if there is none."""
    return int(internal_kv._internal_kv_get(key, namespace=_NAMESPACE) or 0)


def _write_count(key: bytes, count: int) -> None:
    internal_kv._internal_kv_put(key, str(count).encode(), overwrite=True, namespace=_NAMESPACE)


def _delete_count(key: bytes) -> None:
    internal_kv._internal_kv_del(key, namespace=_NAMESPACE)
