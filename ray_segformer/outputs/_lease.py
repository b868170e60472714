"""The lease of an output: only one job writes there at a time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

import psutil

from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._storage import Storage

LEASE_NAME = "lease.json"

_SECONDS_BETWEEN_BEATS = 5.0
_SECONDS_UNTIL_FREE = 20.0
# The file is read again after these pauses, because another job may have written it at the same time.
_SECONDS_TO_CHECK, _SECONDS_TO_CHECK_LOCALLY = 1.0, 0.2


class Lease:
    """The right to write to an output. It is a small file, which its holder changes every 5 seconds (a beat).

    A lease that did not change for 20 seconds is free, because its holder is dead. The waiting job measures this
    timeout by its own clock, so clocks need not agree. If the holder died on this machine, the lease is free at once. A
    holder that finds the name of another one in the file stops.

    In a local folder, a new lease is exclusive: only one of two jobs that start together gets it. There is a race on
    object stores, which have no locks, and where a dead holder's lease is taken: both jobs may believe for a moment
    that they hold it. Each job reads the file again after a moment, and at each beat, and then one of them stops. A job
    that loses the lease while it runs may have tasks that still write. Their shards are whole. The other job deletes
    the shards that it does not know, before it writes its summary.

    Use it as a context manager.

    Args:
        storage: the output.

    Attributes:
        lost: whether another job took the lease.

    Raises:
        OutputError: on entering, another job holds the lease; or the storage cannot be written.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._owner = uuid.uuid4().hex
        self._beat = 0
        self.lost = False
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        if not self._storage.create(LEASE_NAME, self._content()):
            self._wait_until_free()
            self._storage.rewrite(LEASE_NAME, self._content())
            time.sleep(_SECONDS_TO_CHECK_LOCALLY)
        if not self._storage.has_locks:
            time.sleep(_SECONDS_TO_CHECK)
        self._check_what_was_written()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ends.set()
        self._thread.join()
        # An output that cannot be reached now must not hide the error that ended the job.
        with contextlib.suppress(OutputError, OSError):
            if self._holder().get("owner") == self._owner:
                self._storage.delete([LEASE_NAME])

    def check(self) -> None:
        """Raise an `OutputError` if another job took the lease, as far as the last beat told."""
        if self.lost:
            raise self._taken(self._holder())

    def look(self) -> None:
        """Read the lease, and raise an `OutputError` if another job took it. Call it before deleting or finishing."""
        holder = self._holder()
        self.lost = self.lost or bool(holder and holder.get("owner") != self._owner)
        self.check()

    def _check_what_was_written(self) -> None:
        """Raise an `OutputError` if the lease is another job's by now, or does not come back as it was written."""
        content = self._storage.read(LEASE_NAME) or b""
        if self._content() != content and self._content() in content:
            raise OutputError(
                f"{self._storage.shown}: this store changes the content of files: it does not know the checksums of "
                "newer S3 clients. Set AWS_REQUEST_CHECKSUM_CALCULATION=when_required on all machines"
            )
        if self._holder().get("owner") != self._owner:
            raise self._taken(self._holder())

    def _content(self) -> bytes:
        content = {"owner": self._owner, "machine": _machine(), "process": os.getpid(), "beat": self._beat}
        return json.dumps(content).encode()

    def _holder(self) -> dict[str, Any]:
        """Return the content of the lease; empty if there is none."""
        content = self._storage.read(LEASE_NAME)
        if content is None:
            return {}
        try:
            return {"owner": "", **json.loads(content)}
        except (TypeError, ValueError):  # the holder is writing it now, or was killed while writing
            return {"owner": ""}

    def _wait_until_free(self) -> None:
        seen = self._holder()
        free_at = time.monotonic() + _SECONDS_UNTIL_FREE
        while seen and not _is_dead(seen) and time.monotonic() < free_at:
            time.sleep(1)
            now = self._holder()
            if now and now != seen:
                raise self._taken(now)
            seen = now

    def _taken(self, holder: dict[str, Any]) -> OutputError:
        machine = str(holder.get("machine", "")).partition("/")[0]
        where = f" (process {holder.get('process')} on {machine})" if machine else ""
        return OutputError(f"{self._storage.shown}: another run is writing there{where}; wait for it, or end it")

    def _keep(self) -> None:
        while not self._ends.wait(_SECONDS_BETWEEN_BEATS):
            # A store that cannot be reached is asked again at the next beat.
            with contextlib.suppress(OutputError):
                holder = self._holder()
                if holder and holder.get("owner") != self._owner:
                    self.lost = True
                    return
                self._beat += 1
                self._storage.rewrite(LEASE_NAME, self._content())


def _machine() -> str:
    """Return an id of this machine and container. Process ids can be compared only where it is the same."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _is_dead(holder: dict[str, Any]) -> bool:
    """Return whether the holder of a lease was a process of this machine that has ended. False if that is not known."""
    if holder.get("machine") != _machine() or not isinstance(holder.get("process"), int):
        return False
    return not psutil.pid_exists(holder["process"])
