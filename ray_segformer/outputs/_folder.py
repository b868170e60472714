"""The output folder of a command: its lease, the options of its job, and the summary, which is written last."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ray_segformer.inputs import first_read_from, readable
from ray_segformer.outputs._errors import OutputError
from ray_segformer.outputs._lease import LEASE_NAME, Lease
from ray_segformer.outputs._local_storage import LocalStorage
from ray_segformer.outputs._storage import Storage
from ray_segformer.outputs._storage_at import storage_at

SUMMARY_NAME = "summary.json"
_EXPORT_NAME = "export.json"  # the summary of an export, which job.json of earlier versions does not name
_SUMMARY = "summary"  # the key in job.json of the name of the job's summary

JOB_NAME = "job.json"
CLASSES_NAME = "classes.json"
"""The file of an output with the names of its classes."""

_ADVICE = "; start again with --overwrite"
_WORKING_DIRECTORIES = os.path.join(os.sep, "runtime_resources", "working_dir_files", "")  # in Ray's temporary folder


class OutputFolder:
    """A folder to which a job writes: local, or on any file system of pyarrow.

        path/job.json        the name of its summary and its options, until it is finished
        path/lease.json      who writes there, until then; see `Lease`
        path/classes.json    class names by class id
        path/summary.json    what was done. It is written last: it exists if and only if the job finished.

    Use it as a context manager, and call `begin` before the first file is written. A killed process leaves what it
    wrote, without a summary. So does an exception, if a job can be resumed, which is one with `options`; of other jobs,
    nothing stays.

    Args:
        path: a local path or a URI.
        source: what the job reads: a path or a URI. An output that contains it, or contains a file of its list file,
            is not replaced. Default: nothing.
        overwrite: replace an earlier output. Default: False.
        resume: continue what an interrupted job of the same options left, if it left anything. Default: False.
        options: the options on which the results depend, of a job that can be resumed. JSON must be able to hold them.
            Default: none.
        summary_name: the file name of the summary. Default: summary.json.

    Attributes:
        storage: the files.
        lease: call its `check` now and then.
        finished: after entering, the summary of the earlier job, if `resume` finds that it was complete; else None.
        resumes: after entering, whether there is an interrupted job to resume.

    Raises:
        OutputError: pyarrow does not know the URI; or the folder is in the `working_dir` of a Ray job, which Ray
            deletes; or there is an earlier output, without `overwrite` or `resume`; or an output of another command, or
            other files are there; or the source is there, and would be deleted. On entering: another job writes there;
            or the folder cannot be written; or the earlier job had other options.
    """

    def __init__(
        self,
        path: str,
        *,
        source: str | None = None,
        overwrite: bool = False,
        resume: bool = False,
        options: Mapping[str, Any] | None = None,
        summary_name: str = SUMMARY_NAME,
    ) -> None:
        self.storage = storage_at(path)
        if isinstance(self.storage, LocalStorage) and _WORKING_DIRECTORIES in self.storage.path:
            raise OutputError(
                f"{self.storage.shown}: is in the working_dir of a Ray job ({readable(self.storage.path)}), which Ray "
                "deletes after it; name an absolute path, or a store"
            )
        self.lease = Lease(self.storage)
        self.finished: dict[str, Any] | None = None
        self.resumes = self._begun = False
        self._overwrite, self._resume = overwrite, resume
        self._options: dict[str, Any] = json.loads(json.dumps(dict(options or {})))
        self._summary_name = summary_name
        if self.storage.entries():
            self._check()
            read = first_read_from(path, source) if overwrite and source is not None else None
            if read is not None:
                raise OutputError(
                    f"{self.storage.shown}: --overwrite would delete {read}, which is to be read; name another folder"
                )

    def _check(self) -> None:
        """Raise an `OutputError` if something is there that this job must not touch."""
        shown = self.storage.shown
        is_finished = _object_in(self.storage.read(self._summary_name)).get("finished") is True
        job = self.storage.read(JOB_NAME)
        is_left = job is not None and _summary_of(job) in (self._summary_name, None)
        is_begun = is_left or set(self.storage.entries()) == {LEASE_NAME}
        if not is_finished and not is_begun and job is not None and _summary_of(job):
            raise OutputError(
                f"{shown} was left by an interrupted run of another command, which would have written "
                f"{_summary_of(job)}; name another folder"
            )
        if self._overwrite or self._resume:
            if not is_finished and not is_begun:
                raise OutputError(
                    f"{shown} is no earlier output (it has no {self._summary_name}, or one of another program); name "
                    "another folder"
                )
            return
        if is_finished:
            raise OutputError(f"{shown} exists; name a new folder, or replace it with --overwrite")
        if not is_begun:
            raise OutputError(f"{shown} exists, and is no output of an earlier run; name a new folder")
        advice = "continue with --resume, or start again with --overwrite" if self._options else "use --overwrite"
        raise OutputError(f"{shown} was left by an interrupted run; {advice}")

    def __enter__(self) -> OutputFolder:
        self.lease.__enter__()
        try:
            if self._resume:
                self._find_earlier()
            elif not self._overwrite and set(self.storage.entries()) - {LEASE_NAME}:
                self._check()  # another run wrote there, while this one listed its input
        except BaseException:
            self.lease.__exit__()
            raise
        return self

    def reopen(self) -> None:
        """Turn the finished job into an interrupted one, because some of its files are missing.

        Raises:
            OutputError: the storage cannot be written.
        """
        self._write_job(self._options)
        self.storage.delete([self._summary_name])
        self.finished, self.resumes = None, True

    def begin(self, id2label: Mapping[int, str] | None = None) -> None:
        """Delete an earlier output, unless it is resumed, and write down the options of this job.

        Args:
            id2label: class names by class id, so that an unfinished output has them, too. Default: only `finish` writes
                them.

        Raises:
            OutputError: the storage cannot be written.
        """
        if self.resumes:
            self.storage.tidy()
        else:
            self._begun = True
            if self._overwrite:  # after an interrupted deletion, the rest can be overwritten but not resumed
                self._write_job({})
            self.storage.delete([self._summary_name])  # first, so that what remains does not look finished
            self.storage.delete_all(but={LEASE_NAME, JOB_NAME})
            self._write_job(self._options)
            if id2label is not None:
                self._write_classes(id2label)

    def __exit__(self, kind: Any, *_: Any) -> None:
        # A storage that cannot be reached now must not hide the error that ended the job.
        with contextlib.suppress(OutputError, OSError):
            if kind is not None and self._begun and not self.lease.lost:
                written = set(self.storage.entries()) - {JOB_NAME, LEASE_NAME, CLASSES_NAME}
                if not (written and self._options):
                    self.storage.delete_all(but={LEASE_NAME, JOB_NAME})
                    self.storage.delete([JOB_NAME])  # last: without it, the rest would be nobody's
        self.lease.__exit__()
        with contextlib.suppress(OutputError, OSError):
            if not self.lease.lost:  # else, another job is writing there
                self.storage.tidy()
                self.storage.remove_if_empty()

    def write_file(self, name: str, content: bytes | str) -> None:
        """Write a file below the folder, and make its folders. Text is encoded as UTF-8."""
        self.storage.write(name, content.encode("utf-8") if isinstance(content, str) else content)

    def _write_job(self, options: Mapping[str, Any]) -> None:
        self.write_file(JOB_NAME, _json({_SUMMARY: self._summary_name, **options}))

    def _write_classes(self, id2label: Mapping[int, str]) -> None:
        self.write_file(CLASSES_NAME, _json({str(class_id): label for class_id, label in id2label.items()}))

    def finish(self, summary: dict[str, Any], id2label: Mapping[int, str]) -> dict[str, Any]:
        """Write the class names and the summary.

        Args:
            summary: what was done. JSON must be able to hold it.
            id2label: class names by class id.

        Returns:
            The content of the summary: `summary`, `options` if there are any, and `finished`, which is True.

        Raises:
            OutputError: another job took the lease, or a file cannot be written.
        """
        summary = {**summary, **({"options": self._options} if self._options else {}), "finished": True}
        self.lease.look()
        self._write_classes(id2label)
        self.write_file(self._summary_name, _json(summary))
        self.storage.delete([JOB_NAME])
        return summary

    def _find_earlier(self) -> None:
        """Look for a job to resume, or a finished one, and check its options."""
        shown = self.storage.shown
        self.finished = self.storage.read_json(self._summary_name, _ADVICE)
        if self.finished is not None:
            changed = differences(self.finished.get("options", {}), self._options)
            if changed:
                raise OutputError(f"{shown} is complete, but {changed}; name another folder, or use --overwrite")
            return
        options = read_options(self.storage, _ADVICE)
        if options is None:
            return
        if not options:
            raise OutputError(f"{shown}: an earlier output was being deleted there{_ADVICE}")
        changed = differences(options, self._options)
        if changed:
            raise OutputError(
                f"{shown}: {changed}: results would be a mixture; use the earlier options, or start again with "
                "--overwrite"
            )
        self.resumes = True


def read_options(storage: Storage, advice: str = "") -> dict[str, Any] | None:
    """Return the options of an unfinished job; None if there is none. Arguments and errors: see `Storage.read_json`."""
    job = storage.read_json(JOB_NAME, advice)
    return None if job is None else {name: value for name, value in job.items() if name != _SUMMARY}


def _summary_of(job: bytes) -> str | None:
    """Return the name of the summary that an unfinished job would have written, from the content of its file.

    It is None if that is not known: an upload was cut off, or an earlier version was deleting; and "" if another
    program wrote the file.
    """
    found = _object_in(job)
    if not job or job.strip() == b"{}":
        return None
    name = found.get(_SUMMARY)
    if name is not None:
        return name if isinstance(name, str) and name.endswith(".json") else ""
    if "format" not in found:
        return ""
    return SUMMARY_NAME if "input" in found else _EXPORT_NAME if "source" in found else ""  # of earlier versions


def _object_in(content: bytes | None) -> dict[str, Any]:
    """Return a JSON object; an empty one if the content is none."""
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return which options changed, as text for an error message; "" if none did."""
    names = sorted({*before, *now})
    changed = [name for name in names if _comparable(name, before.get(name)) != _comparable(name, now.get(name))]
    return "; ".join(
        "the model is another one"  # its digest says nothing to a reader
        if name == "model"
        else f"{name} was {_readable(before.get(name))}, now {_readable(now.get(name))}"
        for name in changed
    )


def _readable(value: Any) -> str:
    """Return the value of an option in words, not in Python's."""
    if value is None or value == []:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _comparable(name: str, value: Any) -> Any:
    """Return the value of an option to compare: until 0.2.0, an input was written down as it was given."""
    if name not in ("input", "source") or not isinstance(value, str):
        return value
    return value.rstrip("/") if "://" in value else os.path.abspath(os.path.expanduser(value))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
