"""List the files below a folder, of a glob, or in a list file, on any file system of pyarrow."""

from __future__ import annotations

import errno
import glob
import os
import posixpath
import stat
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs

from ray_segformer.inputs.image_input import InputError
from ray_segformer.inputs.location import FileName, Location
from ray_segformer.inputs.paths import readable
from ray_segformer.inputs.selection import below, is_hidden, matches, names_hidden


def kind_of(file_system: pa.fs.FileSystem, path: str) -> pa.fs.FileType:
    """Return what is at a path: a file, a folder, nothing, or something else, such as a pipe (`Unknown`).

    Raises:
        InputError: the path cannot be looked up.
    """
    if not isinstance(file_system, pa.fs.LocalFileSystem):
        try:
            return file_system.get_file_info(path).type
        except OSError as error:
            raise InputError(f"{path}: cannot be looked up: {error}") from error
    try:
        mode = os.stat(path).st_mode  # pyarrow fails for a name that is not UTF-8
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return pa.fs.FileType.NotFound
    except OSError as error:
        raise InputError(f"{readable(path)}: cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return pa.fs.FileType.Directory
    return pa.fs.FileType.File if stat.S_ISREG(mode) else pa.fs.FileType.Unknown


def files_below(file_system: pa.fs.FileSystem, folder: str) -> list[str]:
    """Return the paths of all files below a folder, sorted.

    They include hidden files. In a local folder, they include broken symbolic links, too: reading them fails later, so
    that no image is lost silently.

    Raises:
        InputError: the folder cannot be listed. Hidden local folders are passed over instead.
    """
    if isinstance(file_system, pa.fs.LocalFileSystem):
        return sorted(_walk_local(folder))
    try:
        infos = file_system.get_file_info(pa.fs.FileSelector(folder, allow_not_found=True, recursive=True))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error}") from error
    return sorted(info.path for info in infos if info.type == pa.fs.FileType.File)


def files_matching(file_system: pa.fs.FileSystem, pattern: str, folder: str) -> list[str]:
    """Return the paths of the files that match a glob, sorted. `folder` is the glob's `fixed_part`.

    Hidden files and folders match only a part of the glob that names them.
    """
    wildcards = below(pattern, folder)
    if isinstance(file_system, pa.fs.LocalFileSystem):
        found = (path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))
        return sorted(path for path in found if not names_hidden(below(path, folder), wildcards))
    return [path for path in files_below(file_system, folder) if matches(below(path, folder), wildcards)]


def fixed_part(pattern: str) -> str:
    """Return the folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def files_in_list(location: Location) -> list[FileName]:
    """Return the files that a list file names, one a line. Empty lines and lines that start with # are skipped.

    Raises:
        InputError: the file is not UTF-8.
    """
    path = location.path
    with open(path, "rb") if location.is_local else location.file_system.open_input_file(path) as file:
        try:
            # Not `splitlines`: the other characters that end a line there may be part of a name.
            lines = file.read().decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{location.shown}: a list file must be UTF-8 text: {error}") from error
    return [location.named_in(line.strip()) for line in lines if line.strip() and not line.startswith("#")]


def shared_folder(paths: list[str]) -> str:
    """Return the deepest folder that all paths are below; "" if there is none."""
    try:
        return posixpath.commonpath([posixpath.dirname(path) for path in paths])
    except ValueError:  # no paths, or absolute and relative paths together
        return ""


def _walk_local(root: str) -> Iterator[str]:
    """Yield the files below a local folder.

    Unlike pyarrow's walk, it accepts names that are not UTF-8, and does not follow a link to a folder that contains it.
    """
    folders = [(root, frozenset[tuple[int, int]]())]
    root = root.rstrip("/")
    while folders:
        folder, parents = folders.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in parents:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        folders.append((entry.path, parents | {identity}))
                    else:
                        yield entry.path
        except OSError as error:
            if is_hidden(folder[len(root) + 1 :]):
                continue
            raise InputError(
                f"{readable(folder)}: this folder of the input cannot be read: {error.strerror}; "
                "make it readable, or name an input without it"
            ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise
