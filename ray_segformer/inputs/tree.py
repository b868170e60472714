"""A folder that holds a dataset, local or remote, and what is below it."""

from __future__ import annotations

import posixpath
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs

from ray_segformer.inputs.listing import file_system_of, files_below, kind_of
from ray_segformer.inputs.paths import readable


class Tree:
    """A folder, of which all paths are relative.

    Args:
        root: a local path or a URI.

    Raises:
        InputError: pyarrow does not know the URI.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._file_system, self._path = file_system_of(root)

    def locate(self, path: str) -> str:
        """Return the local path or the URI of a path below, with the options of the root's URI."""
        if "://" not in self.root:
            return posixpath.join(self._path, path).rstrip("/")
        parts = urlsplit(self.root)
        return urlunsplit(parts._replace(path=posixpath.join(parts.path, path).rstrip("/")))

    def file(self, path: str) -> str:
        """Return the path or the URI of a file below as text that can be encoded as UTF-8."""
        return readable(self.locate(path))

    def has_folder(self, path: str) -> bool:
        """Return whether there is such a folder."""
        return bool(kind_of(self._file_system, posixpath.join(self._path, path)) == pa.fs.FileType.Directory)

    def folders(self, path: str = "") -> list[str]:
        """Return the names of the folders in a folder, sorted; none if it is not there."""
        if not self.has_folder(path):
            return []
        infos = self._file_system.get_file_info(pa.fs.FileSelector(posixpath.join(self._path, path)))
        return sorted(info.base_name for info in infos if info.type == pa.fs.FileType.Directory)

    def files(self, path: str) -> list[str]:
        """Return the paths, relative to a folder, of the files below it, sorted; none if it is not there."""
        if not self.has_folder(path):
            return []
        folder = posixpath.join(self._path, path).rstrip("/")
        return [posixpath.relpath(file, folder) for file in files_below(self._file_system, folder)]

    def lines(self, path: str) -> list[str]:
        """Return the lines of a text file that are not empty."""
        with self._file_system.open_input_file(posixpath.join(self._path, path)) as file:
            return [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
