"""The machine: its processor, and the memory that Ray's processes use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import threading
from typing import Any

import psutil

from ray_segformer import __version__

_SAMPLE_SECONDS = 0.1


def processor_name() -> str:
    """The processor's name and its widest instructions, as far as the operating system tells them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            facts = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    name = facts.get("model name") or platform.machine()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return f"{name} ({', '.join(wide)})" if wide else name


def describe_machine() -> dict[str, Any]:
    """This machine's `processor` and `cpus`, and the versions of `ray`, `torch` and `ray_segformer`."""
    versions = {package: importlib.metadata.version(package) for package in ("ray", "torch")}
    return {"processor": processor_name(), "cpus": os.cpu_count(), **versions, "ray_segformer": __version__}


class PeakMemory:
    """The most memory that this and Ray's processes on this node used inside of a `with`, ten times a second.

        with PeakMemory() as memory:
            ...
        print(memory.peak)

    It is the sum of what each process has to itself, and what they share, libraries and object store, once, as the
    largest share of any process. (Linux tells the two apart; elsewhere shared memory counts for every process.) Ray's
    processes are those below this one and, where Ray runs, below its node's raylet.

    Attributes:
        peak: bytes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._roots = [psutil.Process()]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        raylet = _raylet()
        if raylet is not None:
            self._roots.append(raylet)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, _memory_of(self._roots))
            if self._ended.wait(_SAMPLE_SECONDS):
                return


def _raylet() -> psutil.Process | None:
    """The raylet of this node, which is the parent of Ray's workers; None where Ray does not run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    parent = ray.remote(_parent).options(num_cpus=0, scheduling_strategy=here)
    return psutil.Process(ray.get(parent.remote()))


def _parent() -> int:
    return os.getppid()  # which, built in, Ray takes for no function


def _memory_of(roots: list[psutil.Process]) -> int:
    """Bytes that the trees of processes under `roots` use."""
    processes = {process.pid: process for root in roots for process in [root, *root.children(recursive=True)]}
    own, shared = 0, 0
    for process in processes.values():
        try:
            memory = process.memory_info()
        except psutil.Error:  # it has ended meanwhile
            continue
        shared_here = getattr(memory, "shared", 0)
        own += memory.rss - shared_here
        shared = max(shared, shared_here)
    return own + shared
