"""Memory that stays in the process when it is freed, so that the next tensor can reuse it."""

from __future__ import annotations

import ctypes
import platform

# Options of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make glibc keep the memory that this process frees, until the process ends.

    By default glibc returns a large freed block to the kernel. The next large tensor then gets new pages from the
    kernel, each after a page fault and a clearing. On a CPU this can take as long as the network's arithmetic. After
    this call the process stays at its peak size, but does not grow beyond it.

    `SegformerPredictor` calls this in Ray actors, which do nothing else. In other processes the choice is the user's.

    Returns:
        True where the settings were applied (Linux with glibc), else False.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in settings)


def return_freed_memory() -> bool:
    """Return to the kernel the memory that this process has freed and kept.

    A huge image leaves much of it: its decoder takes more than the pixels do.

    Returns:
        True where there was some (Linux with glibc), else False.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))
