"""The Ray cluster that a job runs on: connecting to it, and the resources that workers reserve."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import ray

from ray_segformer.air import installed
from ray_segformer.inputs import READING_CPUS, in_background

ENCODING_CPUS = 0.25
"""Reserved by a stage that encodes masks or scores predictions.

It must fit beside all other stages: Ray Data gives CPUs to stages from first to last, and without any for the last,
nothing is written until all images are preprocessed.
"""

_T = TypeVar("_T")
_SOON = 0.2  # seconds
_TRIES, _SECONDS_TO_ANSWER = 5, 5  # of a cluster, which may just be starting
_DECODING_SHARE = 8  # one CPU in eight is left to decode and resize images
_WORKER_MEMORY = 2 * 2**30  # bytes: a copy of torch, the network and its activations


class ResourceError(ValueError):
    """Workers cannot get the resources they are to reserve. The message says what the cluster has."""


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or else start Ray on this machine. Keep Ray if it already runs.

    Ray's own messages and progress bars are turned off, and datasets keep the order of their input.

    Raises:
        ResourceError: nothing answers at RAY_ADDRESS, Ray cannot join the cluster there, or it is joined by Ray Client.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if not ray.is_initialized():
        _check_address(address)
    # Ray's messages are for its developers. What users must know comes as an error, or from this package.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an exception that ends a job is raised, too
    try:
        with _silent_stderr():  # Ray prints there that it found RAY_BACKEND_LOG_LEVEL
            ray.init(logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        if address in ("", "local"):  # This Ray was to start here.
            raise
        raise ResourceError(
            f"RAY_ADDRESS is {address}, and Ray cannot join that cluster ({' '.join(str(error).split())}); use its "
            "versions of Ray and Python, and if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    if ray.util.client.ray.is_connected():  # type: ignore[no-untyped-call]
        raise ResourceError(
            "Ray Data does not run over Ray Client (ray://); on a machine of the cluster, set RAY_ADDRESS to the "
            "head's host:port, such as head:6379, or start this with `ray job submit`"
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


def start_ray_during(work: Callable[[], _T]) -> _T:
    """Return what `work` returns. If it takes longer than a moment, start Ray meanwhile, unless Ray runs.

    To list millions of files takes as long as to start Ray. A wrong path is found at once, and no Ray starts for it.
    """
    working = in_background(work)
    concurrent.futures.wait([working], _SOON)
    if not (working.done() or ray.is_initialized()):
        start_ray()
    return working.result()


def resources_for(
    rows: int, batch_size: int, workers: int | None = None, gpus_per_worker: float = 0.0
) -> dict[str, Any]:
    """Return the resource arguments of `BatchPredictor.predict` for a dataset.

    Args:
        rows: the number of rows of the dataset.
        batch_size, gpus_per_worker: as for `predict`.
        workers: the most workers. Default: with GPUs, as many as they allow. Else one for each CPU, except that one in
            eight CPUs is left for decoding; but at most one for each batch, and one for each 2 GiB of memory.

    Raises:
        ResourceError: the cluster has fewer GPUs than a worker reserves.
    """
    resources: dict[str, Any] = {"batch_size": batch_size, "num_gpus_per_worker": gpus_per_worker}
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    check_gpus(gpus_per_worker, available)
    if gpus_per_worker > 0:
        return {**resources, "max_scoring_workers": workers or int(available["GPU"] / gpus_per_worker)}
    cpus = max(int(available.get("CPU", 1)), 1)
    by_memory = max(int(available.get("memory", cpus * _WORKER_MEMORY) / _WORKER_MEMORY), 1)
    workers = workers or min(cpus - cpus // _DECODING_SHARE, by_memory, math.ceil(rows / batch_size))
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    cpu_nodes = sum(1 for node in nodes if node["Alive"] and node["Resources"].get("CPU"))
    other_cpus = cpu_nodes + READING_CPUS + ENCODING_CPUS  # a CPU on each node is for preprocessing
    cpus_per_worker = min(1.0, math.floor(max(cpus - other_cpus, 0) / workers * 100) / 100)
    return {**resources, "max_scoring_workers": workers, "num_cpus_per_worker": cpus_per_worker}


def check_gpus(gpus_per_worker: float, available: Mapping[str, float]) -> None:
    """Raise a `ResourceError` if a worker reserves more GPUs than are `available`, because it would wait forever."""
    there = available.get("GPU", 0)
    if gpus_per_worker > there:
        raise ResourceError(
            f"--gpus-per-worker {gpus_per_worker:g}: the cluster has {there:g} GPU(s); reserve fewer, or add GPUs"
        )


def where_to_run(num_cpus: float, *, here: bool) -> dict[str, Any]:
    """Return the arguments of `map_batches` for tasks that reserve CPUs: `here` on the driver's node, else anywhere."""
    return installed.on_driver_node(num_cpus) if here else {"num_cpus": num_cpus}


def _check_address(address: str) -> None:
    """Check that something listens at `host:port` or `ray://host:port`. Ray's own timeout takes minutes."""
    try:
        place = urlsplit(address if "://" in address else f"//{address}")
        host, port = place.hostname, place.port
    except ValueError:  # Ray says what is wrong
        return
    if place.scheme not in ("", "ray") or host is None or port is None:  # such as "local" and "auto"
        return
    for number in range(_TRIES):
        time.sleep(min(number, 1))
        try:
            socket.create_connection((host, port), _SECONDS_TO_ANSWER).close()
            return
        except OSError as error:
            reason = error.strerror or error
    raise ResourceError(
        f"RAY_ADDRESS is {address}, and nothing answers there ({reason}); start that cluster, or unset RAY_ADDRESS to "
        "start Ray on this machine"
    )


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what this process, including native libraries, writes to stderr during the `with` block."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
