"""Paths that are not trusted: as text, and as relative names of output files."""

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
    """Return a path as text that can be encoded as UTF-8.

    A path whose bytes are UTF-8 is returned as it is. An absolute path that is not UTF-8 becomes a URI such as
    `file:///photos/caf%E9.jpg`, from which the file can be read. A relative one is only percent-encoded.
    """
    if not _NOT_TEXT.search(path):
        return path
    return ("file://" if os.path.isabs(path) else "") + quote(os.fsencode(path))


def folded(name: str) -> str:
    """Return a name in a form that is equal for names which some file systems cannot tell apart.

    Such file systems ignore upper and lower case, or whether an accented letter is one character or two.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def unique_names(paths: list[str], folder: str) -> list[str]:
    """Return a name for each path: relative to `folder`, and without suffix unless that would make two names equal."""
    prefix = _safe_path(folder) + "/"
    relative = [_safe_path(path).removeprefix(prefix) or "image" for path in paths]
    # Digests instead of texts, to save memory: there may be millions.
    stems = digests_of(folded(posixpath.splitext(path)[0]) for path in relative)
    _, numbers, counts = np.unique(stems, return_inverse=True, return_counts=True)
    is_unique = (counts == 1)[numbers]
    return [posixpath.splitext(path)[0] if unique else path for path, unique in zip(relative, is_unique, strict=True)]


def safe_name(path: str) -> str:
    """Return a path without its suffix, as a relative path that stays below the folder it is joined to."""
    return posixpath.splitext(_safe_path(path))[0] or "image"


def _safe_path(path: str) -> str:
    """Return a path without scheme, root and `..`.

    Control characters become `_`. Bytes that are not UTF-8 are percent-encoded, such as `%E9`.
    """
    parts = path.split("://")[-1].replace("\\", "/").split("/")
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return _CONTROL.sub("_", _NOT_TEXT.sub(lambda found: quote(os.fsencode(found[0])), path))
