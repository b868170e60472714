"""Compiled programs, kept on disk so that a machine compiles each of them once."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def cache_directory() -> str:
    """`$RAY_SEGFORMER_CACHE`, else `$XDG_CACHE_HOME/ray_segformer`, else `~/.cache/ray_segformer`; made if missing.

    Raises:
        RuntimeError: others could write there. What lies in it is run.
    """
    path = os.environ.get("RAY_SEGFORMER_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ray_segformer"
    )
    os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.stat(path)
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise RuntimeError(
            f"{path} belongs to another user, or others can write to it, and compiled programs are run from it; "
            "chmod 700 it, or set RAY_SEGFORMER_CACHE to a directory of your own"
        )
    return path


def cached(key: str, make: Callable[[str], None]) -> str:
    """The directory `key` in the cache; `make(directory)` fills it first where there is none.

    Of several processes that ask for the same, one makes it and the others wait.
    """
    from filelock import FileLock

    parent = cache_directory()
    path = os.path.join(parent, key)
    if not os.path.isdir(path):
        with FileLock(path + ".lock"):
            if not os.path.isdir(path):
                unfinished = tempfile.mkdtemp(dir=parent, prefix=".unfinished_")
                try:
                    make(unfinished)
                    os.replace(unfinished, path)
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
    return path


def program_key(config: Mapping[str, Any], weights: Mapping[str, Tensor], *settings: Any) -> str:
    """A name for what is compiled of a network, by this code, for this processor, with `settings`."""
    digest = hashlib.sha256()
    with open(os.path.join(os.path.dirname(__file__), "segformer.py"), "rb") as source:
        digest.update(source.read())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}".encode())
        digest.update(weights[name].contiguous().numpy().data)
    digest.update(repr((_processor(), *settings)).encode())
    return digest.hexdigest()[:32]


def _processor() -> tuple[str, ...]:
    """What a compiler asks of a processor: on Linux, its model and instruction sets."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().split("\n\n")[0].splitlines()
        return tuple(line for line in lines if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return (platform.machine(), platform.processor())
