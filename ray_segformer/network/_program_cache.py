"""A cache of compiled programs on disk, so that a machine compiles each of them only once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ray_segformer.network._processor import processor

# The sources that decide what a compiled network computes.
_NETWORK_SOURCES = ("_segformer.py", "_layers.py", "_decoder.py", "_hub_format.py")


def cache_directory() -> str:
    """Return the cache's directory, which is created if it is missing.

    It is `$RAY_SEGFORMER_CACHE`, else `$XDG_CACHE_HOME/ray_segformer`, else `~/.cache/ray_segformer`.

    Raises:
        RuntimeError: another user owns the directory or can write to it. That user could run code in this process,
            because the programs in the directory are executed.
    """
    path = _path()
    os.makedirs(path, mode=0o700, exist_ok=True)
    status = os.stat(path)
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise RuntimeError(
            f"{path} belongs to another user, or others can write to it. Compiled programs in it are executed. "
            "Run chmod 700 on it, or set RAY_SEGFORMER_CACHE to a directory of your own"
        )
    return path


def cached(key: str, make: Callable[[str], None]) -> str:
    """Return the path of the directory `key` in the cache.

    If it does not exist, `make(directory)` is called to fill it. If several processes ask for the same key at once, one
    of them calls `make` and the others wait for it. A `make` that fails leaves nothing behind.
    """
    from filelock import FileLock

    parent = cache_directory()
    path = os.path.join(parent, key)
    if not os.path.isdir(path):
        with FileLock(path + ".lock"):
            if not os.path.isdir(path):
                unfinished = os.path.join(parent, f".unfinished_{key}")
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
                os.mkdir(unfinished, mode=0o700)
                try:
                    make(unfinished)
                    os.replace(unfinished, path)
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
    return path


def is_cached(key: str) -> bool:
    """Return whether the directory `key` is in the cache, and nobody else can write there. Creates nothing."""
    if not os.path.isdir(os.path.join(_path(), key)):
        return False
    try:
        cache_directory()
    except RuntimeError:
        return False
    return True


class ProgramKeys:
    """The cache keys of compiled networks: 32 hexadecimal digits.

    A key depends on the network's source code, configuration and weights, on the processor, and on all settings.

    Args:
        config, weights: those of the network.
        settings: what all of its programs share.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], *settings: Any) -> None:
        self._settings = (processor(), *settings)
        self._digest = hashlib.sha256()
        for name in _NETWORK_SOURCES:
            with open(os.path.join(os.path.dirname(__file__), name), "rb") as source:
                self._digest.update(source.read())
        self._digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name in sorted(weights):
            self._digest.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}".encode())
            self._digest.update(weights[name].contiguous().numpy().data)

    def key(self, *settings: Any) -> str:
        """Return the key of a program with these settings of its own."""
        digest = self._digest.copy()
        digest.update(repr((*self._settings, *settings)).encode())
        return digest.hexdigest()[:32]


def _path() -> str:
    return os.environ.get("RAY_SEGFORMER_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ray_segformer"
    )
