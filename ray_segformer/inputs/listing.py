"""List the files below a folder, of a glob, or in a list file, on any file system of pyarrow."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import posixpath
import stat
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs

from ray_segformer.inputs.image_input import InputError
from ray_segformer.inputs.paths import readable


def file_system_of(source: str) -> tuple[pa.fs.FileSystem, str]:
    """Return the file system of a local path or a URI, and the path on it, which is absolute.

    Raises:
        InputError: pyarrow does not know the URI.
    """
    if "://" not in source:
        return pa.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(source))
    try:
        file_system, path = pa.fs.FileSystem.from_uri(source)
        return file_system, path
    except (pa.ArrowInvalid, OSError, ImportError) as error:
        raise InputError(f"{source}: not a URI that pyarrow's file systems know: {error}") from error


def kind_of(file_system: pa.fs.FileSystem, path: str) -> pa.fs.FileType:
    """Return what is at a path: a file, a folder, nothing, or something else, such as a pipe (`Unknown`).

    Raises:
        InputError: a local path cannot be looked up.
    """
    if not isinstance(file_system, pa.fs.LocalFileSystem):
        return file_system.get_file_info(path).type
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

    In a local folder, these include broken symbolic links: reading them fails later, so that no image is lost silently.

    Raises:
        InputError: a local folder cannot be read.
    """
    if isinstance(file_system, pa.fs.LocalFileSystem):
        return sorted(_walk_local(folder))
    infos = file_system.get_file_info(pa.fs.FileSelector(folder, recursive=True))
    return sorted(info.path for info in infos if info.type == pa.fs.FileType.File)


def files_matching(file_system: pa.fs.FileSystem, pattern: str, folder: str) -> list[str]:
    """Return the paths of the files that match a glob, sorted. `folder` is the glob's `fixed_part`."""
    if isinstance(file_system, pa.fs.LocalFileSystem):
        return sorted(path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))
    return [path for path in files_below(file_system, folder) if fnmatch.fnmatch(path, pattern)]


def fixed_part(pattern: str) -> str:
    """Return the folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def paths_in_list(file_system: pa.fs.FileSystem, path: str) -> list[str]:
    """Return the paths and URIs in a list file, one a line. Empty lines and lines that start with # are skipped.

    Raises:
        InputError: the file is not UTF-8.
    """
    is_local = isinstance(file_system, pa.fs.LocalFileSystem)
    with open(path, "rb") if is_local else file_system.open_input_file(path) as file:
        try:
            # Not `splitlines`: the other characters that end a line there may be part of a name.
            lines = file.read().decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: a list file must be UTF-8 text: {error}") from error
    paths = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [line if "://" in line else posixpath.join(posixpath.dirname(path), line) for line in paths]


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
