"""The output folder of a command."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import Any

from ray_segformer.images import public_uri
from ray_segformer.jobs.atomic_write import write_atomically

SUMMARY_NAME = "summary.json"
UNFINISHED_SUFFIX = ".unfinished"


class OutputError(ValueError):
    """The output cannot be written there. The message says why, and what to do."""


class OutputFolder:
    """A folder that exists under its final name only if it is complete.

    All files are written to `<path>.unfinished`, which `finish` renames. Use it as a context manager: an exception
    removes the unfinished folder. A killed process leaves it.

        path/summary.json    what was done; it exists if and only if the run finished
        path/classes.json    class names by class id

    Args:
        path: a local folder.
        overwrite: replace an earlier output, once the new one is complete. Default: False.
        summary_name: the file name of the summary. Default: summary.json.

    Attributes:
        path: the absolute path; of a symbolic link to a folder, the path of that folder.
        unfinished: the folder with the files until `finish`.

    Raises:
        OutputError: `path` is not local; or it exists without `overwrite`; or it exists and is not an earlier output;
            or an interrupted run left its unfinished folder; or the unfinished folder is a symbolic link.
    """

    _ADVICE = "remove it, or use --overwrite"

    def __init__(self, path: str, overwrite: bool = False, summary_name: str = SUMMARY_NAME) -> None:
        if "://" in path:
            raise OutputError(
                f"{public_uri(path)}: the output is a local folder; name one, and copy it to the URI afterwards"
            )
        self.path = os.path.realpath(os.path.expanduser(path))
        self.unfinished = self.path + UNFINISHED_SUFFIX
        self._summary_name = summary_name
        if os.path.exists(self.path) and not self._is_empty():
            if not overwrite:
                raise OutputError(f"{path} exists; name a new folder, or replace it with --overwrite")
            if not os.path.isfile(os.path.join(self.path, summary_name)):
                raise OutputError(f"{path} is no earlier output (it has no {summary_name}); name another folder")
        if os.path.islink(self.unfinished):
            raise OutputError(f"{self.unfinished} is a symbolic link, through which nothing is written; remove it")
        if os.path.exists(self.unfinished) and not overwrite:
            raise OutputError(f"{self.unfinished} was left by an interrupted run; {self._ADVICE}")

    def __enter__(self) -> OutputFolder:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        os.makedirs(self.unfinished)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def write_file(self, name: str, content: bytes | str) -> None:
        """Write a file below the output folder, and make its folders. Text is encoded as UTF-8."""
        path = os.path.join(self.unfinished, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomically(path, content.encode("utf-8") if isinstance(content, str) else content, durable=False)

    def finish(self, summary: dict[str, Any], id2label: dict[int, str]) -> dict[str, Any]:
        """Write the class names and the summary, and rename the folder to its final name.

        Args:
            summary: what was done. JSON must be able to hold it.
            id2label: class names by class id.

        Returns:
            The content of the summary: `summary`, and `finished`, which is True.
        """
        summary = {**summary, "finished": True}
        self.write_file("classes.json", _json({str(class_id): label for class_id, label in id2label.items()}))
        self.write_file(self._summary_name, _json(summary))
        self._publish()
        return summary

    def _publish(self) -> None:
        """Rename the complete folder to its final name.

        If that is a mount point, which cannot be replaced, copy the files into it, the summary last.
        """
        replaced = self.path + ".replaced"
        try:
            shutil.rmtree(replaced, ignore_errors=True)
            if os.path.exists(self.path):
                os.rename(self.path, replaced)
            os.rename(self.unfinished, self.path)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EBUSY):
                raise
            for name in sorted(os.listdir(self.path), key=lambda name: name != self._summary_name):
                entry = os.path.join(self.path, name)
                shutil.rmtree(entry) if os.path.isdir(entry) else os.unlink(entry)
            for name in sorted(os.listdir(self.unfinished), key=lambda name: name == self._summary_name):
                source, target = os.path.join(self.unfinished, name), os.path.join(self.path, name)
                shutil.copytree(source, target) if os.path.isdir(source) else shutil.copy2(source, target)
            shutil.rmtree(self.unfinished)
        shutil.rmtree(replaced, ignore_errors=True)

    def _is_empty(self) -> bool:
        return os.path.isdir(self.path) and not os.listdir(self.path)


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
