"""Names of output files that are valid and unique on every common file system."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable

from ray_segformer.inputs import folded

# The suffixes that `MaskFolder` adds to a name, and those of `write_atomically` while it writes.
_SUFFIXES = (".png", ".jpg", ".png~", ".jpg~")
_LONGEST_SUFFIX = 5

_MAX_PART = 255  # bytes in the name of a folder, or of a file with its suffix: the limit of common file systems
_MAX_PATH = 2048  # bytes in a relative path; Linux allows 4096 in an absolute one


class TakenNames:
    """The names that an output has so far, and new names that differ from them.

    Args:
        names: the names that earlier runs gave. Default: none.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        self._folders: set[str] = set()  # folders whose names end like those of files
        self._numbers: dict[str, int] = {}  # the last number added to a name
        for name in names:
            self._take(name)

    def unique(self, name: str) -> str:
        """Return a unique name, and take it.

        It is `name`, changed as little as possible. A name that is taken gets a number. A folder that has the name of a
        file gets a `_`. Names that are too long are shortened.

        Args:
            name: the `name` of a row of an `ImageInput`.
        """
        *folders, stem = name.split("/")
        if len(name.encode()) > _MAX_PATH:
            folders, stem = [], f"{stem}~{_digest(name)}"
        for number, folder in enumerate(folders):
            folders[number] = _shortened(folder, _MAX_PART)
            while self._is_file("/".join(folders[: number + 1])):
                folders[number] = _shortened(folders[number] + "_", _MAX_PART)
        first = candidate = "/".join((*folders, _shortened(stem, _MAX_PART - _LONGEST_SUFFIX)))
        number = self._numbers.get(folded(first), 1)
        while self._is_taken(candidate):
            number += 1
            room = _MAX_PART - _LONGEST_SUFFIX - len(f"-{number}")
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


def _shortened(part: str, limit: int) -> str:
    """Return `part` if it has at most `limit` bytes; else its beginning, and a hash of the whole."""
    content = part.encode()
    if len(content) <= limit:
        return part
    return content[: limit - 17].decode(errors="ignore") + "~" + _digest(part)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
