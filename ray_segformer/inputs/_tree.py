"""A folder that holds a dataset, local or remote, and what is below it."""

from __future__ import annotations

import posixpath

import pyarrow as pa
import pyarrow.fs

from ray_segformer.inputs._listing import files_below, folders_in, kind_of
from ray_segformer.inputs._location import FileName, Location, joined
from ray_segformer.inputs._selection import below, is_hidden


class Tree:
    """A folder, of which all paths are relative. Hidden files are left out.

    Args:
        root: a local path or a URI.

    Attributes:
        shown: the path or URI for messages.

    Raises:
        InputError: pyarrow does not know the URI.
    """

    def __init__(self, root: str) -> None:
        self._root, self._location = root, Location(root)
        self._file_system, self._path, self.shown = (
            self._location.file_system,
            self._location.path,
            self._location.shown,
        )

    def locate(self, path: str) -> str:
        """Return the local path or the URI of a folder below, with the options of the root's URI."""
        return joined(self._root, path)

    def file(self, path: str) -> FileName:
        """Return the names of a file below."""
        return self._location.file(posixpath.join(self._path, path))

    def has_folder(self, path: str) -> bool:
        """Return whether there is such a folder."""
        return bool(kind_of(self._file_system, posixpath.join(self._path, path)) == pa.fs.FileType.Directory)

    def folders(self, path: str = "") -> list[str]:
        """Return the names of the folders in a folder, sorted; none if it is not there."""
        if not self.has_folder(path):
            return []
        return folders_in(self._location.at(posixpath.join(self._path, path)))

    def files(self, path: str) -> list[str]:
        """Return the paths, relative to a folder, of the files below it, sorted; none if it is not there."""
        if not self.has_folder(path):
            return []
        folder = posixpath.join(self._path, path).rstrip("/")
        relative = (below(file, folder) for file in files_below(self._location.at(folder)))
        return sorted(file for file in relative if not is_hidden(file))

    def lines(self, path: str) -> list[str]:
        """Return the lines of a text file that are not empty."""
        with self._file_system.open_input_file(posixpath.join(self._path, path)) as file:
            return [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
