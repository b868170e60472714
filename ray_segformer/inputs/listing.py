"""Files below a folder, of a glob, or in a list file, on any file system of pyarrow's."""

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
import pyarrow.parquet

from ray_segformer.inputs.image_input import InputError
from ray_segformer.inputs.paths import readable


def file_system_of(source: str) -> tuple[pa.fs.FileSystem, str]:
    if "://" not in source:
        return pa.fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(source))
    try:
        return pa.fs.FileSystem.from_uri(source)
    except (pa.ArrowInvalid, OSError, ImportError) as error:
        raise InputError(f"{source}: not a URI that pyarrow's file systems know: {error}") from error


def kind_of(file_system: pa.fs.FileSystem, path: str) -> pa.fs.FileType:
    if not isinstance(file_system, pa.fs.LocalFileSystem):
        return file_system.get_file_info(path).type
    try:
        mode = os.stat(path).st_mode  # pyarrow would stop at a name that is no UTF-8
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return pa.fs.FileType.NotFound
    except OSError as error:
        raise InputError(f"{readable(path)}: cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return pa.fs.FileType.Directory
    return pa.fs.FileType.File if stat.S_ISREG(mode) else pa.fs.FileType.Unknown


def files_below(file_system: pa.fs.FileSystem, folder: str) -> list[str]:
    """The files below a folder. Of a local one, links that lead nowhere, too: they are missed when they are read."""
    if isinstance(file_system, pa.fs.LocalFileSystem):
        return sorted(_walk_local(folder))
    infos = file_system.get_file_info(pa.fs.FileSelector(folder, recursive=True))
    return sorted(info.path for info in infos if info.type == pa.fs.FileType.File)


def _walk_local(root: str) -> Iterator[str]:
    """As pyarrow does, but with names that are no UTF-8, and into no folder from inside of itself."""
    folders = [(root, frozenset[tuple[int, int]]())]
    while folders:
        folder, above = folders.pop()
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_folder(entry):
                        folders.append((entry.path, above | {identity}))
                    else:
                        yield entry.path
        except OSError as error:
            raise InputError(
                f"{readable(folder)}: this folder of the input cannot be read: {error.strerror}; "
                "make it readable, or leave it out"
            ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def fixed_part(pattern: str) -> str:
    """The folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def files_matching(file_system: pa.fs.FileSystem, pattern: str, folder: str) -> list[str]:
    if isinstance(file_system, pa.fs.LocalFileSystem):
        return sorted(path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))
    return [path for path in files_below(file_system, folder) if fnmatch.fnmatch(path, pattern)]


def paths_in_list(file_system: pa.fs.FileSystem, path: str) -> list[str]:
    is_local = isinstance(file_system, pa.fs.LocalFileSystem)
    with open(path, "rb") if is_local else file_system.open_input_file(path) as file:
        try:
            lines = file.read().decode("utf-8-sig").split("\n")  # nothing else ends a line: it may be in a name
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: a list file holds UTF-8 text: {error}") from error
    paths = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [line if "://" in line else posixpath.join(posixpath.dirname(path), line) for line in paths]


def shared_folder(paths: list[str]) -> str:
    """The folder that all paths are below, or "" where they share none."""
    try:
        return posixpath.commonpath([posixpath.dirname(path) for path in paths])
    except ValueError:  # there are none, or relative ones among absolute ones
        return ""
