"""The machine: its processor, and the memory that this process and Ray's processes use."""

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
    """Return the processor's name and its widest vector instructions, if the operating system tells them."""
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
    """Return `processor` and `cpus` of the machine, and the versions of `ray`, `torch` and `ray_segformer`."""
    versions = {package: importlib.metadata.version(package) for package in ("ray", "torch")}
    return {"processor": processor_name(), "cpus": os.cpu_count(), **versions, "ray_segformer": __version__}


class PeakMemory:
    """Measures the peak memory of this process and of Ray's processes on this node, ten times a second.

        with PeakMemory() as memory:
            ...
        print(memory.peak)

    The memory is the sum of each process's own memory, plus the shared memory (libraries and the object store). Shared
    memory is counted once: as the largest amount in any process. Only Linux tells own and shared memory apart. On other
    systems, shared memory counts for every process. Ray's processes are the children of this process and, if Ray runs,
    of the node's raylet.

    Attributes:
        peak: the peak memory in bytes.
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
    """Return the raylet of this node, which is the parent of Ray's workers; None if Ray does not run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not ray.is_initialized():
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    parent = ray.remote(_parent).options(num_cpus=0, scheduling_strategy=here)
    return psutil.Process(ray.get(parent.remote()))


def _parent() -> int:
    return os.getppid()  # A function of our own, because ray.remote accepts no built-in one.


def _memory_of(roots: list[psutil.Process]) -> int:
    """Return the bytes that the `roots` and all their descendants use."""
    processes = {process.pid: process for root in roots for process in [root, *root.children(recursive=True)]}
    own, shared = 0, 0
    for process in processes.values():
        try:
            memory = process.memory_info()
        except psutil.Error:  # The process has ended.
            continue
        shared_here = getattr(memory, "shared", 0)
        own += memory.rss - shared_here
        shared = max(shared, shared_here)
    return own + shared
