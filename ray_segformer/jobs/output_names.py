"""Names of output files: writable, and unlike each other on every common file system."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable

from ray_segformer.inputs import folded

# What `MaskFolder` adds to a name, and `write_atomically` while it writes.
_SUFFIXES = (".png", ".jpg", ".png~", ".jpg~")
_LONGEST_SUFFIX = 5

# Of bytes, in a folder or a file's name with its suffix, on all common file systems; and in a whole relative path,
# where Linux allows 4096 from the root.
_PART, _PATH = 255, 2048


class TakenNames:
    """The names of an output so far, and new ones unlike them.

    Args:
        names: those of earlier runs.
    """

    def __init__(self, names: Iterable[str] = ()):
        self._names: set[str] = set()
        self._folders: set[str] = set()  # those that a file might be called
        self._numbers: dict[str, int] = {}  # the last one given, by what is numbered
        for name in names:
            self._take(name)

    def unique(self, name: str) -> str:
        """`name`; with a number where it is taken, a folder with `_` that is a file already, and shortened if need be.

        Args:
            name: of `safe_name` or `unique_names`.
        """
        *folders, stem = name.split("/")
        if len(name.encode()) > _PATH:
            folders, stem = [], f"{stem}~{_digest(name)}"
        for number, folder in enumerate(folders):
            folders[number] = _shortened(folder, _PART)
            while self._is_file("/".join(folders[: number + 1])):
                folders[number] = _shortened(folders[number] + "_", _PART)
        first = candidate = "/".join((*folders, _shortened(stem, _PART - _LONGEST_SUFFIX)))
        number = self._numbers.get(folded(first), 1)
        while self._is_taken(candidate):
            number += 1
            room = _PART - _LONGEST_SUFFIX - len(f"-{number}")
            candidate = "/".join((*folders, _shortened(stem, room) + f"-{number}"))
        if number > 1:
            self._numbers[folded(first)] = number
        self._take(candidate)
        return candidate

    def _is_taken(self, name: str) -> bool:
        name = folded(name)
        return name in self._names or any(name + suffix in self._folders for suffix in _SUFFIXES)

    def _is_file(self, folder: str) -> bool:
        folder = folded(folder)
        return any(folder.endswith(suffix) and folder.removesuffix(suffix) in self._names for suffix in _SUFFIXES)

    def _take(self, name: str) -> None:
        name = folded(name)
        self._names.add(name)
        folder = posixpath.dirname(name)
        while folder:
            if folder.endswith(_SUFFIXES):
                self._folders.add(folder)
            folder = posixpath.dirname(folder)


def _shortened(part: str, most: int) -> str:
    """`part` in so many bytes at most, then with a hash of what it was."""
    content = part.encode()
    if len(content) <= most:
        return part
    return content[: most - 17].decode(errors="ignore") + "~" + _digest(part)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
