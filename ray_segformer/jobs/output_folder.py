"""A folder that exists under its name only when it is complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import Any

from ray_segformer.jobs.atomic_write import write_atomically

SUMMARY_NAME = "summary.json"
UNFINISHED_SUFFIX = ".unfinished"


class OutputError(ValueError):
    """An output folder that may not be written; the message says why, and what to do."""


class OutputFolder:
    """A folder that exists under its name only when it is complete.

    Everything is written to `<path>.unfinished`, which `finish` renames. A context manager: an exception removes
    the unfinished folder; a killed process leaves it, under that name.

        path/summary.json    what was done (or another name); there when, and only when, the run finished
        path/classes.json    class names by class id

    Args:
        path: a local folder.
        overwrite: replace an earlier output, once the new one is complete.
        summary_name: what the summary is called.

    Attributes:
        path: absolute, and where a symbolic link to a folder leads.
        unfinished: where files are until then.

    Raises:
        OutputError: `path` is no local path, exists (with `overwrite`: and is not an output of this class), or an
            interrupted run left its unfinished folder, or that is a symbolic link.
    """

    _ADVICE = "remove it, or use --overwrite"

    def __init__(self, path: str, overwrite: bool = False, summary_name: str = SUMMARY_NAME):
        if "://" in path:
            raise OutputError(f"{path}: the output is a local folder; copy it from there")
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
            raise OutputError(f"{self.unfinished} is left of an interrupted run; {self._ADVICE}")

    def __enter__(self) -> OutputFolder:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        os.makedirs(self.unfinished)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.unfinished, ignore_errors=True)

    def write_file(self, name: str, content: bytes | str) -> None:
        """Write a file, with its folders, below the output folder."""
        path = os.path.join(self.unfinished, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomically(path, content.encode("utf-8") if isinstance(content, str) else content, durable=False)

    def finish(self, summary: dict[str, Any], id2label: dict[int, str]) -> dict[str, Any]:
        """Mark the run as finished, and give the folder its name; what the summary then holds."""
        summary = {**summary, "finished": True}
        self.write_file("classes.json", _json({str(class_id): label for class_id, label in id2label.items()}))
        self.write_file(self._summary_name, _json(summary))
        self._publish()
        return summary

    def _publish(self) -> None:
        """Give the complete folder its name; where that is a mount of its own, copy it there, the summary last."""
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
