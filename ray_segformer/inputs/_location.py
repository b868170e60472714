"""Where an input is, and how the files there are named in rows: as cells, and without secrets."""

from __future__ import annotations

import copy
import os
import posixpath
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
import pyarrow.fs

from ray_segformer.images import escaped_uri, file_system_at, is_percent_encoded, public_uri, quoted
from ray_segformer.inputs._image_input import InputError
from ray_segformer.inputs._paths import readable

_ONE_SLASH = re.compile(r"(?:s3|gs|gcs|abfss?|hdfs|file|https?|hf):/(?!/)")


def joined(source: str, *parts: str) -> str:
    """Return a source, with its options, of a path below another source."""
    folder, mark, options = source.partition("?") if "://" in source else (source, "", "")
    return posixpath.join(folder, *parts).rstrip("/") + mark + options


def parent(source: str) -> str:
    """Return the folder of a source, with the source's options."""
    path, mark, options = source.partition("?") if "://" in source else (source, "", "")
    return posixpath.dirname(path) + mark + options


class FileName(NamedTuple):
    """A file by its names.

    Attributes:
        cell: the path or URI from which it is read. A URI has the options of its source.
        path: the same without user, password and options, for outputs and messages.
        plain: its path on its file system, in which nothing is percent-encoded, for the name of its mask.
    """

    cell: str
    path: str
    plain: str


class Location:
    """What a local path or a URI names.

    Attributes:
        shown: the path or URI without user, password and options, for messages.
        file_system: pyarrow's file system.
        path: the path on it. It is absolute if the file system is local.

    Raises:
        InputError: it is empty, or pyarrow does not know the URI, or it has one slash where a URI has two.
    """

    def __init__(self, source: str) -> None:
        if not source:  # else it would be the current folder
            raise InputError("the path of the input is empty; name a file or a folder")
        if typed := _ONE_SLASH.match(source):  # else it would be a local folder of this name
            raise InputError(f"the path begins with {typed[0]}, but a URI begins with {typed[0]}/; write that")
        self.shown = public_uri(readable(source))
        self._head = self._options = self._root = ""
        self._is_encoded = is_percent_encoded(source)
        if "://" not in source:
            self.file_system: pa.fs.FileSystem = pa.fs.LocalFileSystem()
            self.path = os.path.abspath(os.path.expanduser(source))
            return
        uri = escaped_uri(source)
        try:
            self.file_system, self.path = file_system_at(uri)
        except (pa.ArrowInvalid, OSError, ImportError) as error:
            reason = str(error).replace(uri, public_uri(uri))
            if "Cannot parse URI" in reason:  # It quotes parts of the URI.
                reason = "its syntax is wrong"
            is_known = isinstance(error, OSError)  # S3 is asked for the region of a bucket
            what = "its store cannot be opened" if is_known else "not a URI that pyarrow's file systems know"
            raise InputError(f"{self.shown}: {what}: {reason}") from error
        before, mark, options = uri.partition("?")
        scheme, _, rest = before.partition("://")
        authority, _, name = rest.partition("/")
        self._head, self._options = f"{scheme}://{authority}", mark + options
        name = unquote(name, errors="surrogateescape") if self._is_encoded else name
        # What the file system's paths have before the path in the URI. On S3 it is the bucket, which is the URI's host.
        # On HDFS it is `/`. On Azure it is the container, or nothing: the URI's host can be the account.
        root = self.path.rstrip("/").removesuffix(name.strip("/")).rstrip("/")
        self._root = f"{root}/" if root or self.path.startswith("/") else ""

    @property
    def options(self) -> dict[str, str]:
        """The options of the URI, such as `region`."""
        return dict(parse_qsl(self._options.removeprefix("?")))

    @property
    def user(self) -> str:
        """The user and the password of the URI, `user:password`; "" if it has none. Not to be shown."""
        return unquote(self._head.partition("://")[2].rpartition("@")[0])

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's file system."""
        return isinstance(self.file_system, pa.fs.LocalFileSystem)

    @property
    def canonical(self) -> str:
        """The same text however it was written: an absolute path, or a URI as `shown`, without a slash at its end."""
        return readable(self.path) if self.is_local else self.shown.rstrip("/")

    @property
    def finds_folders(self) -> bool:
        """Whether the list of a folder has the folders in it. On GCS, pyarrow finds none but those that it made."""
        return self.file_system.type_name in ("local", "s3", "hdfs", "abfs")

    def at(self, path: str) -> Location:
        """Return the location of another path of this file system."""
        location = copy.copy(self)
        location.path = path
        return location

    def path_of(self, other: str) -> str | None:
        """Return the path that another path or URI has below this one, or as this one; None if it is elsewhere.

        Links are followed. The result starts with the path of this location, as the files do that are listed below it.

        Raises:
            InputError: pyarrow does not know the URI.
        """
        if self.is_local != ("://" not in other or other.startswith("file://")):  # seen without asking a store
            return None
        there = Location(other)
        systems = {(each.file_system.type_name, each.options.get("endpoint_override")) for each in (self, there)}
        if len(systems) > 1:
            return None
        of_folder, of_other = (os.path.realpath(each.path) if each.is_local else each.path for each in (self, there))
        relative = posixpath.relpath(of_other or ".", of_folder or ".")  # the path of a whole account is ""
        return None if relative.split("/")[0] == ".." else posixpath.normpath(posixpath.join(self.path, relative))

    def file(self, path: str) -> FileName:
        """Return the names of the file at a path of this file system.

        Raises:
            InputError: it is in another bucket.
        """
        if self.is_local:
            text = readable(path)
            return FileName(text, text, path)
        if not path.startswith(self._root):
            raise InputError(f"{self.shown}: {path} is outside of it; name such a file by its URI")
        name = path.removeprefix(self._root)
        uri = f"{self._head}/{quoted(name) if self._is_encoded else name}"
        return FileName(uri + self._options, public_uri(uri), path)

    def named_in(self, text: str) -> FileName:
        """Return the names of a file that the file at this location names, in a line of a list or a cell of a table.

        A relative path is relative to the folder of this file. A URI of the same scheme, without user and options of
        its own, gets those of this file's. On Azure, it must name the same host, too: options can be a signature.
        """
        if "://" in text:
            return self._of_uri(text)
        if os.path.isabs(text) and not posixpath.isabs(self.path):  # an object store has no absolute paths
            return FileName(text, text, text)
        path = posixpath.join(posixpath.dirname(self.path), text)
        return self.file(path if self.is_local else posixpath.normpath(path))

    def _of_uri(self, text: str) -> FileName:
        uri = escaped_uri(text)
        scheme, _, rest = uri.partition("://")
        own_scheme, _, own_rest = self._head.partition("://")
        user, at, own_host = own_rest.rpartition("@")
        container, _, host = rest.partition("/")[0].rpartition("@")
        if scheme == own_scheme and "?" not in rest:
            if scheme.startswith("abfs"):  # before the @ is a container or an account
                uri += self._options if host == own_host else ""
            elif not container:
                uri = f"{scheme}://{user}{at}{rest}{self._options}"
        path = public_uri(uri)
        plain = unquote(path.partition("://")[2], errors="surrogateescape")
        return FileName(uri, path, plain)
