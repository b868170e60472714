"""Memory that the C library keeps for the next tensor."""

from __future__ import annotations

import ctypes
import platform

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for good.

    By default glibc gives a large freed block back to the kernel, and gets it back page by page, each page by a fault
    and cleared: on a CPU that can cost a network as much as its arithmetic. Afterwards the process stays as large as it
    ever was, and no larger. `SegformerPredictor` calls this in Ray's actors, which do nothing else; a process of your
    own is yours to decide.

    Returns:
        Whether it was done: True on Linux with glibc, False elsewhere.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in settings)
