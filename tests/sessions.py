"""The Ray that the tests of a process share."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

# Ray Data asks what the cluster has, looks for the answer at once, and again after a second. Until then a dataset has
# no share of anything, and its driver spins. Most datasets of the tests are so short that this second is all they take.
with contextlib.suppress(ImportError):  # Ray 2.6
    from ray.data._internal.execution.resource_manager import ResourceManager

    ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = 0.1

_PORTS = 2000  # more than the workers that tests start in some minutes
_FOR_SERVERS = 8  # the last of these, which servers of tests take
_owned: list[Any] = []  # the cluster, and the socket that keeps its ports from other processes


def start_ray(**resources: Any) -> None:
    """Start a Ray on this machine and connect to it, unless this process has one.

    Its workers take the ports of a range in turn. `ray.init` leaves ports to the system, which soon gives some a second
    time. gRPC does not connect to a port for up to two minutes after the last worker there ended, and all waits.
    """
    if ray.is_initialized():
        return
    end_ray()
    lock = _first_port_of_a_range()
    first = lock.getsockname()[1]
    ports = {"min_worker_port": first + 1, "max_worker_port": first + _PORTS - 1 - _FOR_SERVERS}
    head = {"include_dashboard": False, "object_store_memory": 500 * 2**20, **resources, **ports}
    while True:
        try:
            cluster = Cluster(initialize_head=True, head_node_args=head)
            break
        except Exception as error:  # Ray waits for 30 seconds, which is too short on a machine that is very busy
            if "timed out during startup" not in str(error):
                raise
    _owned.extend((cluster, lock))
    # Before what `Cluster` registered: a driver that is connected when its Ray ends, and holds objects, exits with 1.
    atexit.register(end_ray)
    # Ray wrote the address there for others: `ray.init()` in any process of this machine would join this Ray.
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    Path(folder, "ray", "ray_current_cluster").unlink(missing_ok=True)
    ray.init(cluster.address, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def server_port() -> int:
    """A port for a server that a test starts beside the Ray of this process. Nobody else is given it.

    The system may give a port of its own, which was free a moment ago, to a connection before the server has it.
    """
    last = _owned[-1].getsockname()[1] + _PORTS - 1
    return next(port for port in range(last, last - _FOR_SERVERS, -1) if _is_free(port))


def end_ray() -> None:
    """End the Ray of this process, if it has one."""
    ray.shutdown()
    while _owned:
        part = _owned.pop(0)
        part.shutdown() if isinstance(part, Cluster) else part.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _first_port_of_a_range() -> socket.socket:
    """Bind the first port of a range, below those that the system chooses, which no other process has."""
    for first in range(12_000, 32_000, _PORTS):
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", first))
        except OSError:
            lock.close()
        else:
            return lock
    raise RuntimeError("no range of ports is free")
