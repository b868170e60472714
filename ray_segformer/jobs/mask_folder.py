"""The output folder of masks, written in shards, from which an interrupted job resumes."""

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

from ray_segformer.images import cause_of
from ray_segformer.inputs import DIGEST, DoneRows
from ray_segformer.jobs.journal import Journal, JournalError, differences, has_journal
from ray_segformer.jobs.mask_rows import RowShards
from ray_segformer.jobs.output_folder import OutputError, OutputFolder
from ray_segformer.jobs.output_names import TakenNames

ROWS_PER_SHARD = 1024

_JOURNAL_NAME = "journal"

# Columns that are written to files of their own: the column for the path of the file, its folder, and its suffix.
_FILES = {"overlay": ("overlay", "overlays", "jpg")}
_FILES_BESIDE_PNG = {
    **_FILES,
    "segmentation": ("mask", "masks", "png"),
    "confidence": ("confidence", "confidence", "png"),
}


class MaskFolder(OutputFolder):
    """An `OutputFolder` of masks, to which rows are committed in shards.

        path/masks/          part-00000.parquet ..., one file a shard, with the columns of `schema_of`
        path/overlays/       one JPEG an image

    Or, with PNG files:

        path/masks/          one PNG of class ids an image
        path/confidence/     one PNG of grey levels an image
        path/rows/           part-00000.parquet ..., as above, with the paths of these files

    Until the run is complete, all files are in `<path>.unfinished`, together with a `Journal` of the rows that are
    done. The process may be killed at any moment: a row that is not in the journal counts as not written, and is done
    again. An exception commits the rows so far.

    Args:
        path: a local folder.
        mask_format: "parquet" or "png".
        options: the options that the masks depend on. JSON must be able to hold them.
        confidence: whether rows have the confidence. Default: False.
        overwrite: replace an earlier output, once the new one is complete. Default: False.
        resume: continue what an interrupted run left, if it left anything. Default: False.
        rows_per_shard: the rows in a shard. A killed process loses at most so many rows that were written. Default:
            1024.

    Attributes:
        finished: the summary of the earlier run, if `resume` finds that it was complete; else None.

    Raises:
        OutputError: as for `OutputFolder`. Also, on entering: another process is writing there, or the run to resume
            had other options.
    """

    _ADVICE = "continue with --resume, or start again with --overwrite"

    def __init__(
        self,
        path: str,
        mask_format: str,
        options: Mapping[str, Any],
        *,
        confidence: bool = False,
        overwrite: bool = False,
        resume: bool = False,
        rows_per_shard: int = ROWS_PER_SHARD,
    ) -> None:
        self._files = _FILES_BESIDE_PNG if mask_format == "png" else _FILES
        self._options = json.loads(json.dumps(dict(options)))
        self._rows_per_shard = rows_per_shard
        self._rows: list[dict[str, Any]] = []
        self._names = TakenNames()
        self._journal: Journal | None = None
        self.finished: dict[str, Any] | None = None
        # With `resume`, what an earlier run left is checked on entering: only then does this process hold the lock.
        super().__init__(path, overwrite or resume)
        self._resume = resume
        self._shards = RowShards(self.unfinished, mask_format, confidence=confidence)
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
            resumes = self._resume and has_journal(folder)
            if resumes:
                self._refuse_links()
            else:
                shutil.rmtree(self.unfinished, ignore_errors=True)
                os.makedirs(self.unfinished)
            self._journal = Journal(folder, self._options, resume=resumes)
            for number in range(self._journal.shards):
                self._shards.remember(number)
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
        """The keys of the rows that are committed."""
        return DoneRows(np.empty(0, DIGEST)) if self._journal is None else self._journal.done

    @property
    def rows(self) -> int:
        """The number of rows that are committed."""
        return 0 if self._journal is None else self._journal.rows

    @property
    def causes(self) -> Counter[str]:
        """The number of committed rows that failed, by cause."""
        return Counter() if self._journal is None else self._journal.causes

    def write(self, row: dict[str, Any]) -> None:
        """Write a row of `EncodeMasks`. It is committed with its shard."""
        name = self._names.unique(row["name"])
        row = {**row, "name": name}
        for column, (path_column, folder, suffix) in self._files.items():
            content, path = row.pop(column, None), f"{folder}/{name}.{suffix}"
            if content is not None:
                self.write_file(path, content)
            row[path_column] = None if content is None else path
        self._rows.append(row)
        if len(self._rows) >= self._rows_per_shard:
            self.commit()

    def commit(self) -> None:
        """Commit the rows so far as a shard, also if they are fewer than `rows_per_shard`."""
        if not self._rows or self._journal is None:
            return
        self._shards.write(self._journal.shards, self._rows)
        if any(row[path] is not None for row in self._rows for path, _, _ in self._files.values()):
            os.sync()  # all the small files must be on disk before the journal lists them
        causes = [None if row["error"] is None else cause_of(row["error"]) for row in self._rows]
        self._journal.commit(
            [
                {"key": row["key"], "name": row["name"], "cause": cause}
                for row, cause in zip(self._rows, causes, strict=True)
            ]
        )
        self._rows = []

    def finish(self, summary: dict[str, Any], id2label: dict[int, str]) -> dict[str, Any]:
        """Commit the last rows, write the summary, and rename the folder to its final name.

        Returns:
            The content of the summary: as for `OutputFolder.finish`, `classes` (see `ClassAreas`), and `options`.
        """
        self.commit()
        if self._journal is not None and not self._journal.shards:
            self._shards.write(0, [])  # so that reading the folder as parquet works without rows, too
        summary = {**summary, "classes": self._shards.areas.as_json(id2label), "options": self._options}
        return super().finish(summary, id2label)

    def _publish(self) -> None:
        shutil.rmtree(os.path.join(self.unfinished, _JOURNAL_NAME), ignore_errors=True)
        super()._publish()

    def _refuse_links(self) -> None:
        """Raise an `OutputError` if the folder to resume has symbolic links to folders.

        No run makes such a link. Where other users can write, they may have put it there to redirect what is written.
        """
        for folder, folders, _ in os.walk(self.unfinished):
            for path in (os.path.join(folder, name) for name in folders):
                if os.path.islink(path):
                    raise OutputError(
                        f"{path} is a symbolic link, through which nothing is written; remove it, or start again "
                        "with --overwrite"
                    )

    def _read_finished(self) -> bool:
        """Return whether an earlier run was complete, and set `finished` to its summary if it was."""
        if os.path.isfile(os.path.join(self.unfinished, self._summary_name)):
            self._publish()  # the earlier run was killed after it wrote the summary and before this
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
