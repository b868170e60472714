"""A folder of objects on S3, GCS, Azure or HDFS, or any other file system of pyarrow."""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs

from ray_segformer.images import retried
from ray_segformer.inputs import Location, listed
from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._storage import Storage


class RemoteStorage(Storage):
    """A folder of one of pyarrow's file systems. An object is there when its upload is complete.

    On Azure, an empty object is there first: pyarrow creates it, and then writes its content. If a process is killed in
    between, the empty object stays. No file of an output is empty, so an empty object counts as incomplete.

    Requests to a busy store, such as S3 that answers 503 (SlowDown), are retried; see `retried`.

    Args:
        location: the folder.
    """

    has_locks = False

    def __init__(self, location: Location) -> None:
        self.shown = location.shown
        self._file_system = location.file_system
        self._path = location.path.rstrip("/")
        self._finds_folders = location.finds_folders

    def write(self, name: str, content: bytes | pa.Buffer, *, durable: bool = True) -> None:
        """See `Storage`."""
        # An upload is completed as soon as its stream is closed or deleted, with whatever was written until then. So it
        # has a thread of its own: what a signal raises (Ctrl-C, or Ray that ends a worker) comes to the main thread.
        with self._errors(name, "written"), ThreadPoolExecutor(1) as uploader:
            uploader.submit(int).result()  # starts the thread first: an exception in `submit` would otherwise leak it
            uploader.submit(retried, self._upload, name, content).result()

    def write_parts(self, name: str, parts: Iterable[bytes]) -> None:
        """See `Storage`. An error in the middle of an upload would complete it."""
        with tempfile.TemporaryFile() as whole:
            for part in parts:
                whole.write(part)
            whole.flush()
            content = mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) if whole.tell() else b""
        self.write(name, pa.py_buffer(content))

    def flush(self) -> None:
        """See `Storage`. An object is safe when its upload is complete."""

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        if self.read(name) is not None:
            return False
        self.write(name, content)
        return True

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        with self._errors(name, "read"):
            try:
                return retried(self._download, name)
            except FileNotFoundError:
                return None

    def open(self, name: str) -> pa.NativeFile:
        """See `Storage`."""
        with self._errors(name, "read"):
            return retried(self._file_system.open_input_file, self._at(name))

    def names(self, folder: str, *, whole: bool = True) -> list[str]:
        """See `Storage`."""
        infos = [info for info in self._list(folder, recursive=True) if info.type == pa.fs.FileType.File]
        return sorted(info.path[len(self._path) + 1 :] for info in infos if info.size or not whole)

    def entries(self) -> list[str]:
        """See `Storage`."""
        if self._finds_folders:
            return sorted(info.base_name for info in self._list("", recursive=False))
        return sorted({name.partition("/")[0] for name in self.names("", whole=False)})

    def delete(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        for name in names:
            with self._errors(name, "deleted"), contextlib.suppress(FileNotFoundError):
                retried(self._file_system.delete_file, self._at(name))

    def delete_all(self, *, but: set[str]) -> None:
        """See `Storage`."""
        for info in self._list("", recursive=False):
            is_folder = info.type == pa.fs.FileType.Directory
            delete = self._file_system.delete_dir if is_folder else self._file_system.delete_file
            if info.base_name not in but:
                with self._errors(info.base_name, "deleted"):
                    retried(delete, info.path)
        if not self._finds_folders:
            self.delete(name for name in self.names("", whole=False) if name not in but)

    def remove_if_empty(self) -> None:
        """See `Storage`. A folder is an object of its own in some stores."""
        with contextlib.suppress(OutputError, OSError):
            if "/" in self._path and not self.entries():
                self._file_system.delete_dir(self._path)

    def tidy(self) -> None:
        """See `Storage`. An upload that was not completed is no object; a rule of the store removes its parts."""

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    @contextlib.contextmanager
    def _errors(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{self.describe(name)}: cannot be {what}: {error}") from error

    def _list(self, folder: str, *, recursive: bool) -> list[pa.fs.FileInfo]:
        selector = pa.fs.FileSelector(self._at(folder), allow_not_found=True, recursive=recursive)
        with self._errors(folder, "listed"):
            return retried(listed, self._file_system, selector)

    def _download(self, name: str) -> bytes:
        with self._file_system.open_input_file(self._at(name)) as file:
            content: bytes = file.read()
        return content

    def _upload(self, name: str, content: bytes | pa.Buffer) -> None:
        # All of the content goes in one call. If a part of it fails, closing the stream fails, too, and pyarrow does
        # not complete the upload.
        with self._file_system.open_output_stream(self._at(name)) as stream:
            stream.write(content)
