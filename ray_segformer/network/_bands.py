"""Threads that run kernels on bands of rows. The kernels release the GIL.

Numba's own threads are not used, because they and torch's OpenMP threads would keep the processors busy while waiting
for each other.

What runs in these threads must not call torch's parallel operations, such as `zero_`. Each thread would have OpenMP
threads of its own then. From that moment there are more of them than processors, so OpenMP lets all of them sleep
instead of waiting, and the network is a sixth slower for the rest of the process's life.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable

# With fewer values to compute, several threads are not faster than one.
WORTH_THREADS = 1_000_000


def in_bands(run: Callable[[int, int], None], rows: int, threads: int) -> None:
    """Call `run(first, last)` for bands of rows that together are all `rows`, in so many threads at once."""
    if threads == 1:
        run(0, rows)
    else:
        bands = min(2 * threads, rows)  # two for each thread, because some bands take longer than others
        edges = [rows * band // bands for band in range(bands + 1)]
        list(_pool(threads).map(run, edges[:-1], edges[1:]))


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="upsampled_argmax")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process inherits the pool, but not its threads
