"""Paths that nobody vouches for: as text, and as the relative names of output files."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from urllib.parse import quote

import numpy as np

from ray_segformer.inputs.row_keys import digests_of

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_TEXT = re.compile(r"[\ud800-\udfff]")


def readable(path: str) -> str:
    """`path` as text that UTF-8 can hold: itself, or, where its bytes are no UTF-8, its `file://` URI.

    So `/photos/caf\\xe9.jpg` is `file:///photos/caf%E9.jpg`, from which it can be read; a relative path is only quoted.
    """
    if not _NOT_TEXT.search(path):
        return path
    return ("file://" if os.path.isabs(path) else "") + quote(os.fsencode(path))


def unique_names(paths: list[str], folder: str) -> list[str]:
    """Names of paths below `folder`, relative to it: without suffix, but with it where two would be alike."""
    prefix = safe_path(folder) + "/"
    relative = [safe_path(path).removeprefix(prefix) or "image" for path in paths]
    stems = digests_of(folded(posixpath.splitext(path)[0]) for path in relative)  # of millions, the texts are too much
    _, numbers, counts = np.unique(stems, return_inverse=True, return_counts=True)
    alone = (counts == 1)[numbers]
    return [posixpath.splitext(path)[0] if only else path for path, only in zip(relative, alone, strict=True)]


def safe_name(path: str) -> str:
    """`path` without suffix, as a relative path that cannot leave a folder."""
    return posixpath.splitext(safe_path(path))[0] or "image"


def safe_path(path: str) -> str:
    """`path` without scheme, root and `..`; control characters are `_`, and bytes that are no UTF-8 `%E9`."""
    parts = path.split("://")[-1].replace("\\", "/").split("/")
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return _CONTROL.sub("_", _NOT_TEXT.sub(lambda found: quote(os.fsencode(found[0])), path))


def folded(name: str) -> str:
    """What two names share that are one on a file system which ignores case, or how letters are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
