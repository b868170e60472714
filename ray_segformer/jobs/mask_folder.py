"""Masks written in shards, so that a job that was interrupted goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

import filelock
import numpy as np
import pyarrow as pa

from ray_segformer.images import cause_of
from ray_segformer.inputs import DoneRows
from ray_segformer.jobs.atomic_write import parquet_bytes, write_atomically
from ray_segformer.jobs.encode import SCHEMA
from ray_segformer.jobs.journal import Journal, JournalError, differences, has_journal
from ray_segformer.jobs.output_folder import OutputError, OutputFolder
from ray_segformer.jobs.output_names import TakenNames

ROWS_PER_SHARD = 1024

_JOURNAL_NAME = "journal"


class MaskFolder(OutputFolder):
    """An `OutputFolder` of masks, to which rows are committed a shard at a time.

        path/masks/          part-00000.parquet ..., a file a shard, or one PNG an image
        path/overlays/       one JPEG an image

    Until it is complete, all this is in `<path>.unfinished`, with a `Journal` of what is done. A process may be killed
    at any moment: what is not in the journal is as if it was never written. On an exception, the rows so far are
    committed.

    Args:
        path: a local folder.
        mask_format: "parquet" or "png".
        options: what the masks depend on, as JSON can hold it.
        overwrite: replace an earlier output, once the new one is complete.
        resume: go on with what an interrupted run left, if it left anything.
        rows_per_shard: at most so many rows are lost, and done again, beside those that are being predicted.

    Attributes:
        finished: the summary of a run that was complete already; None else.

    Raises:
        OutputError: as for `OutputFolder`; or, on entering, another process is writing there, or the options of what
            is to be resumed are others.
    """

    _ADVICE = "go on with --resume, or start anew with --overwrite"

    def __init__(
        self,
        path: str,
        mask_format: str,
        options: Mapping[str, Any],
        *,
        overwrite: bool = False,
        resume: bool = False,
        rows_per_shard: int = ROWS_PER_SHARD,
    ):
        self._mask_format = mask_format
        self._options = json.loads(json.dumps(dict(options)))
        self._rows_per_shard = rows_per_shard
        self._rows: list[dict[str, Any]] = []
        self._names = TakenNames()
        self._journal: Journal | None = None
        self.finished: dict[str, Any] | None = None
        # What an earlier run left is looked at on entering, when nobody else writes there.
        super().__init__(path, overwrite or resume)
        self._resume = resume
        self._lock = filelock.FileLock(self.unfinished + ".lock")

    def __enter__(self) -> MaskFolder:
        folder = os.path.join(self.unfinished, _JOURNAL_NAME)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise OutputError(f"{self.unfinished}: another run is writing there") from error
        try:
            if self._resume and self._read_finished():
                return self
            going_on = self._resume and has_journal(folder)
            if going_on:
                self._refuse_links()
            if not going_on:
                shutil.rmtree(self.unfinished, ignore_errors=True)
                os.makedirs(self.unfinished)
            self._journal = Journal(folder, self._options, resume=going_on)
        except BaseException as error:
            self._release()
            if isinstance(error, JournalError):
                raise OutputError(f"{self.unfinished}: {error}") from error
            raise
        self._names = TakenNames(self._journal.names())
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is not None and self._journal is not None:
                self.commit()
                if not self._journal.shards:
                    shutil.rmtree(self.unfinished, ignore_errors=True)
        finally:
            self._release()

    @property
    def done(self) -> DoneRows:
        """The rows that are committed."""
        return DoneRows(np.empty(0, "S16")) if self._journal is None else self._journal.done

    @property
    def rows(self) -> int:
        """How many they are."""
        return 0 if self._journal is None else self._journal.rows

    @property
    def causes(self) -> Counter[str]:
        """How many of them failed, by cause."""
        return Counter() if self._journal is None else self._journal.causes

    def write(self, row: dict[str, Any]) -> None:
        """Write a row of `EncodeMasks`."""
        name = self._names.unique(row["name"])
        if row.get("overlay") is not None:
            self.write_file(f"overlays/{name}.jpg", row["overlay"])
        if self._mask_format == "png" and row["segmentation"] is not None:
            self.write_file(f"masks/{name}.png", row["segmentation"])
        self._rows.append({**row, "name": name})
        if len(self._rows) >= self._rows_per_shard:
            self.commit()

    def finish(self, summary: dict[str, Any], id2label: dict[int, str]) -> dict[str, Any]:
        """Commit what is left, mark the run as finished, and give the folder its name; what the summary then holds."""
        self.commit()
        if self._mask_format == "parquet" and self._journal is not None and not self._journal.shards:
            self._write_part([])  # of no rows: whoever reads parquet finds some
        return super().finish({**summary, "options": self._options}, id2label)

    def _publish(self) -> None:
        shutil.rmtree(os.path.join(self.unfinished, _JOURNAL_NAME), ignore_errors=True)
        super()._publish()

    def commit(self) -> None:
        """Commit the rows so far, fewer than a shard."""
        if not self._rows or self._journal is None:
            return
        if self._mask_format == "parquet":
            self._write_part(self._rows)
        if self._mask_format == "png" or any(row.get("overlay") is not None for row in self._rows):
            os.sync()  # of many small files, before the journal says that they are there
        causes = [None if row["error"] is None else cause_of(row["error"]) for row in self._rows]
        self._journal.commit(
            [
                {"key": row["key"], "name": row["name"], "cause": cause}
                for row, cause in zip(self._rows, causes, strict=True)
            ]
        )
        self._rows = []

    def _write_part(self, rows: list[dict[str, Any]]) -> None:
        masks = os.path.join(self.unfinished, "masks")
        os.makedirs(masks, exist_ok=True)
        number = self._journal.shards if self._journal is not None else 0
        table = pa.Table.from_pylist([{name: row[name] for name in SCHEMA.names} for row in rows], schema=SCHEMA)
        # A part of this number that the journal does not know, left by a killed process, is replaced.
        write_atomically(os.path.join(masks, f"part-{number:05d}.parquet"), parquet_bytes(table))

    def _refuse_links(self) -> None:
        """What is to be resumed may lie where others could write; no run makes a link to a folder."""
        for folder, folders, _ in os.walk(self.unfinished):
            for path in (os.path.join(folder, name) for name in folders):
                if os.path.islink(path):
                    raise OutputError(
                        f"{path} is a symbolic link, through which nothing is written; remove it, or start anew "
                        "with --overwrite"
                    )

    def _read_finished(self) -> bool:
        """Whether an earlier run was complete; `finished` is its summary then."""
        if os.path.isfile(os.path.join(self.unfinished, self._summary_name)):
            self._publish()  # before which it was killed
        path = os.path.join(self.path, self._summary_name)
        if not os.path.isfile(path):
            return False
        with open(path, encoding="utf-8") as file:
            summary = json.load(file)
        changed = differences(summary.get("options", {}), self._options)
        if changed:
            raise OutputError(f"{self.path} is complete, but {changed}; name another folder, or use --overwrite")
        self.finished = summary
        return True

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._lock.lock_file)
        self._lock.release()
