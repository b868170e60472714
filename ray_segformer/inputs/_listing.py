"""List the files below a folder, of a glob, or in a list file, on any file system of pyarrow."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs

from ray_segformer.images import public_uri, retried, without_options
from ray_segformer.inputs._image_input import InputError
from ray_segformer.inputs._location import FileName, Location
from ray_segformer.inputs._lookup import listed, type_at
from ray_segformer.inputs._paths import readable
from ray_segformer.inputs._s3_pages import has_pages, pages_of_s3
from ray_segformer.inputs._selection import below, is_hidden, matches, names_hidden

_LARGEST_SORTED = 2**18  # entries of a local folder: a hundred megabytes
_BYTES_OF_LIST = 2**20  # of a list file that are read at once


def kind_of(file_system: pa.fs.FileSystem, path: str) -> pa.fs.FileType:
    """Return what is at a path: a file, a folder, nothing, or something else, such as a pipe (`Unknown`).

    Raises:
        InputError: the path cannot be looked up.
    """
    if not isinstance(file_system, pa.fs.LocalFileSystem):
        try:
            return type_at(file_system, path)
        except (OSError, pa.ArrowException) as error:
            reason = without_options(str(error))
            if "wrong version number" in reason:  # of OpenSSL
                reason += "; the server speaks no TLS, so add &scheme=http to the URI"
            raise InputError(f"{file_system.type_name}://{path}: cannot be looked up: {reason}") from error
    try:
        mode = os.stat(path).st_mode  # pyarrow fails for a name that is not UTF-8
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return pa.fs.FileType.NotFound
    except OSError as error:
        raise InputError(f"{readable(path)}: cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return pa.fs.FileType.Directory
    return pa.fs.FileType.File if stat.S_ISREG(mode) else pa.fs.FileType.Unknown


def files_below(location: Location, output: str | None = None) -> Iterator[str]:
    """Yield the paths of all files below a folder, in ascending order. Few of them are in memory at a time.

    They include hidden files. In a local folder, they include broken symbolic links, too: reading them fails later, so
    that no image is lost silently. The files of a local folder of more than 262,144 entries come in the order of the
    file system. S3 is asked for a page of files at a time if boto3 is installed, else for a folder at a time, as HDFS
    is. Other stores are listed as a whole.

    Args:
        location: the folder.
        output: a path or URI. If it is a local folder, it is not entered, by whatever link. Default: none.

    Raises:
        InputError: the folder cannot be listed. Hidden local folders are passed over instead.
    """
    if location.is_local:
        return _walk_local(location.path, output)
    return pages_of_s3(location) if has_pages(location) else _walk_store(location)


def files_matching(location: Location, folder: str, output: str | None = None) -> Iterator[str]:
    """Yield the paths of the files that match a glob, in ascending order. `folder` is the glob's `fixed_part`.

    Hidden files and folders match only a part of the glob that names them. `output` is as for `files_below`.
    """
    pattern, wildcards = location.path, below(location.path, folder)
    if location.is_local and "**" in pattern.split("/"):  # not by `glob`, which follows links in circles
        above = pattern.partition("/**")[0] or "/"
        roots = sorted((root for root in glob.glob(above) if os.path.isdir(root)), key=lambda root: f"{root}/")
        files = itertools.chain.from_iterable(_walk_local(root, output) for root in roots)
        yield from (path for path in files if matches(below(path, folder), wildcards))
    elif location.is_local:
        found = (path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))
        yield from sorted(path for path in found if not names_hidden(below(path, folder), wildcards))
    else:
        yield from (path for path in files_below(location.at(folder)) if matches(below(path, folder), wildcards))


def fixed_part(pattern: str) -> str:
    """Return the folder of a glob above its first wildcard."""
    parts = pattern.split("/")
    return "/".join(parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])


def files_in_list(location: Location) -> Iterator[FileName]:
    """Yield the files that a list file names, one a line. Empty lines and comments are skipped.

    A comment starts with #, and is not the name of a local file.

    Raises:
        InputError: the file is not UTF-8.
    """
    for line in _lines(location):
        name = line.strip()
        is_comment = name.startswith("#") and not (location.is_local and os.path.exists(location.named_in(name).plain))
        if name and not is_comment:
            yield location.named_in(name)


def files_of_paths(paths: Sequence[str]) -> Iterator[FileName]:
    """Yield the files at several paths. Relative ones are relative to the current folder.

    Raises:
        InputError: one is a folder, as far as that is known without asking a store.
    """
    here = Location("paths")  # a file there, which need not exist
    for path in map(os.path.expanduser, paths):
        if path.endswith("/") or ("://" not in path and os.path.isdir(path)):
            raise InputError(
                f"{public_uri(readable(path))}: a list is one of files, and this is a folder; read it by itself, and "
                "join the datasets with union"
            )
        yield here.named_in(path)


def _lines(location: Location) -> Iterator[str]:
    """Yield the lines of a text file, a part of which is in memory at a time."""
    path, rest, is_first, end = location.path, b"", True, b""
    with open(path, "rb") if location.is_local else location.file_system.open_input_stream(path) as file:
        while content := file.read(_BYTES_OF_LIST):
            # Not `splitlines`: the other characters that end a line there may be part of a name. A carriage return may,
            # too, but ends the lines of an old Mac's file, which has no other end.
            end = end or (b"\r" if b"\r" in content and b"\n" not in content else b"\n")
            *complete, rest = (rest + content).split(end)
            yield from _decoded(complete, is_first, location)
            is_first = is_first and not complete
        yield from _decoded([rest], is_first, location)


def _decoded(lines: list[bytes], is_first: bool, location: Location) -> Iterator[str]:
    try:
        text = b"\n".join(lines).decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{location.shown}: a list file must be UTF-8 text: {error}") from error
    yield from text.split("\n")


def shared_folder(paths: list[str]) -> str:
    """Return the deepest folder that all paths are below; "" if there is none."""
    try:
        return posixpath.commonpath([posixpath.dirname(path) for path in paths])
    except ValueError:  # no paths, or absolute and relative paths together
        return ""


def folders_in(location: Location) -> list[str]:
    """Return the names of the folders in a folder, sorted.

    Raises:
        InputError: the folder cannot be listed.
    """
    if location.is_local:
        return sorted(name[:-1] for name in _names_in(location.path, len(location.path)) if name.endswith("/"))
    selector = pa.fs.FileSelector(location.path)
    try:
        infos = retried(listed, location.file_system, selector)
    except OSError as error:
        raise InputError(f"{location.shown}: cannot be listed: {error}") from error
    return sorted(info.base_name for info in infos if info.type == pa.fs.FileType.Directory)


def _walk_local(root: str, output: str | None) -> Iterator[str]:
    """Yield the files below a local folder, but for those of an output.

    Unlike pyarrow's walk, it accepts names that are not UTF-8, and does not follow a link to a folder that contains it.
    """
    root_length = len(root.rstrip("/")) + 1
    own = None if output is None or "://" in output else os.path.expanduser(output)
    seen = [_identity(root, root_length), *([_identity(own, root_length)] if own and os.path.isdir(own) else [])]
    folders = [(root, _names_in(root, root_length), frozenset(seen))]
    while folders:
        folder, names, parents = folders[-1]
        for name in names:
            path = os.path.join(folder, name)
            if not name.endswith("/"):
                yield path
            elif (identity := _identity(path, root_length)) is not None and identity not in parents:
                folders.append((path[:-1], _names_in(path[:-1], root_length), parents | {identity}))
                break
        else:
            folders.pop()


def _names_in(folder: str, root_length: int) -> Iterator[str]:
    """Yield the names in a folder in the order of their paths; of a very large one, as they come.

    Those of folders end with "/".
    """
    try:
        with os.scandir(folder) as scanned:
            # The paths of a folder's files go on with "/", which some characters are below.
            names = (f"{entry.name}/" if _is_folder(entry) else entry.name for entry in scanned)
            first = [*itertools.islice(names, _LARGEST_SORTED)]
            yield from sorted(first) if len(first) < _LARGEST_SORTED else first
            yield from names
    except OSError as error:
        _check_hidden(folder, root_length, error)


def _identity(folder: str, root_length: int) -> tuple[int, int] | None:
    """Return what a folder is, by whatever path or link it is reached; None of a hidden one that cannot be read."""
    try:
        status = os.stat(folder)
    except OSError as error:
        _check_hidden(folder, root_length, error)
        return None
    return status.st_dev, status.st_ino


def _check_hidden(folder: str, root_length: int, error: OSError) -> None:
    """Raise an InputError for a folder that cannot be read, unless it is hidden."""
    if not is_hidden(folder[root_length:]):
        raise InputError(
            f"{readable(folder)}: this folder of the input cannot be read: {error.strerror}; "
            "make it readable, or name an input without it"
        ) from error


def _walk_store(location: Location) -> Iterator[str]:
    """Yield the files below a folder of a store, a folder at a time."""
    folders = [iter(_listed(location, location.path))]
    while folders:
        info = next(folders[-1], None)
        if info is None:
            folders.pop()
        elif info.type == pa.fs.FileType.File:
            yield info.path
        elif location.finds_folders:
            folders.append(iter(_listed(location, info.path)))


def _listed(location: Location, folder: str) -> list[pa.fs.FileInfo]:
    """Return what is in a folder, or all below it where that is the only way, in the order of paths."""
    selector = pa.fs.FileSelector(folder, allow_not_found=True, recursive=not location.finds_folders)
    try:
        return sorted(retried(listed, location.file_system, selector), key=_path_in_order)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error}") from error


def _path_in_order(info: pa.fs.FileInfo) -> str:
    return f"{info.path}/" if info.type == pa.fs.FileType.Directory else info.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise
