"""A folder on HDFS, on which a file can be seen while it is written, and can be renamed."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.fs

from ray_segformer.images import retried
from ray_segformer.inputs import type_at
from ray_segformer.outputs._remote_storage import RemoteStorage

_UNFINISHED = ".unfinished"  # the end of a name that starts with a dot: readers of parquet pass over such files


class HdfsStorage(RemoteStorage):
    """A folder on HDFS. A file is written under another name, and renamed, as in a local folder.

    pyarrow says of every error that the file is not there, or that it is an error of input or output. So this class
    asks what is there before it reads or deletes. Opening what is not there would also print an error of Java's.

    Args:
        location: the folder.
    """

    def rewrite(self, name: str, content: bytes) -> None:
        """See `Storage`. The file is empty for a moment."""
        with self._errors(name, "written"):
            retried(super()._upload, name, content)

    def entries(self) -> list[str]:
        """See `Storage`."""
        return [name for name in super().entries() if not _is_unfinished(name)]

    def delete(self, names: Iterable[str]) -> None:
        """See `Storage`."""
        for name in names:
            with self._errors(name, "deleted"):
                retried(self._delete, name)

    def tidy(self) -> None:
        """See `Storage`."""
        self.delete(name for name in super().entries() if _is_unfinished(name))

    def _delete(self, name: str) -> None:
        try:
            if self._is_there(name):
                self._file_system.delete_file(self._at(name))
        except OSError:
            if self._is_there(name):  # else another process deleted it
                raise

    def _upload(self, name: str, content: bytes | pa.Buffer) -> None:
        unfinished = f".{uuid.uuid4().hex}{_UNFINISHED}"
        try:
            super()._upload(unfinished, content)
            self._file_system.create_dir(self._at(name).rpartition("/")[0])
            self._file_system.move(self._at(unfinished), self._at(name))  # deletes a file of this name just before
        except BaseException:
            with contextlib.suppress(OSError):
                self._file_system.delete_file(self._at(unfinished))
            raise

    def _download(self, name: str) -> bytes:
        if not self._is_there(name):
            raise FileNotFoundError(self.describe(name))
        return super()._download(name)

    def _is_there(self, name: str) -> bool:
        return bool(type_at(self._file_system, self._at(name)) != pa.fs.FileType.NotFound)


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(_UNFINISHED)
