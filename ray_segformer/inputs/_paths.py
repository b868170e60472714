"""Paths that may not be UTF-8, as text."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

NOT_TEXT = re.compile(r"[\ud800-\udfff]")


def readable(path: str) -> str:
    """Return a path as text that can be encoded as UTF-8.

    A path whose bytes are UTF-8 is returned as it is. An absolute path that is not UTF-8 becomes a URI such as
    `file:///photos/caf%E9.jpg`, from which the file can be read. A relative one is only percent-encoded.
    """
    if not NOT_TEXT.search(path):
        return path
    return ("file://" if os.path.isabs(path) else "") + readable_part(path)


def readable_part(path: str) -> str:
    """Return a part of a path percent-encoded."""
    return quote(os.fsencode(path))
