"""The journal of a job: which rows are done, a small file for each shard. An interrupted job resumes from it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from ray_segformer.inputs import DIGEST, DIGEST_BYTES, DoneRows, digests_of
from ray_segformer.jobs.atomic_write import parquet_bytes, write_atomically

_JOB_NAME = "job.json"
_SCHEMA = pa.schema([("key", pa.binary(DIGEST_BYTES)), ("name", pa.string()), ("cause", pa.string())])


class JournalError(ValueError):
    """A job cannot be resumed. The message says why, and what to do."""


class Journal:
    """The options of a job, and the shards it has done, in a folder.

        journal/job.json            the options that the results depend on
        journal/part-00000.parquet  the rows of a shard: digests of their keys, names, causes of failures

    A part exists if and only if its shard is complete: it is written after the shard, and atomically. Nothing else
    records what is done, so the process may be killed at any moment.

    Args:
        folder: the folder of the journal.
        options: the options that the results depend on. JSON must be able to hold them.
        resume: whether to continue the journal in the folder. Otherwise, a new one is begun.

    Attributes:
        shards: the number of complete shards.
        rows: the number of their rows.
        causes: the number of failed rows, by cause.

    Raises:
        JournalError: there is no readable journal to resume, or it has other options; the message names them.
    """

    def __init__(self, folder: str, options: Mapping[str, Any], *, resume: bool) -> None:
        self._folder = folder
        self.shards = self.rows = 0
        self.causes: Counter[str] = Counter()
        self._digests = [np.empty(0, DIGEST)]
        if resume:
            self._check(options)
            while os.path.exists(self._part(self.shards)):
                self._remember(pa.parquet.read_table(self._part(self.shards)))
        else:
            os.makedirs(folder)
            write_atomically(os.path.join(folder, _JOB_NAME), json.dumps(dict(options), indent=2).encode())

    @property
    def done(self) -> DoneRows:
        """The rows of all complete shards."""
        return DoneRows(np.concatenate(self._digests))

    def names(self) -> Iterator[str]:
        """Yield the names of these rows. They are read from the files, to not keep millions of them in memory."""
        for number in range(self.shards):
            yield from pa.parquet.read_table(self._part(number), columns=["name"]).column("name").to_pylist()

    def commit(self, rows: list[dict[str, Any]]) -> None:
        """Record a shard as complete. All its other files must be on disk before.

        Args:
            rows: the `key`, `name` and `cause` of each row. `cause` is None if the row did not fail.
        """
        digests = digests_of(row["key"] for row in rows)
        # NumPy drops zero bytes at the end of a bytes value.
        columns: dict[str, list[Any]] = {"key": [digest.ljust(DIGEST_BYTES, b"\0") for digest in digests.tolist()]}
        columns |= {name: [row[name] for row in rows] for name in ("name", "cause")}
        table = pa.table(columns, schema=_SCHEMA)
        write_atomically(self._part(self.shards), parquet_bytes(table))
        self._remember(table)

    def _remember(self, table: pa.Table) -> None:
        self._digests.append(np.array(table.column("key").to_pylist(), DIGEST))
        self.causes.update(cause for cause in table.column("cause").to_pylist() if cause is not None)
        self.shards += 1
        self.rows += len(table)

    def _part(self, number: int) -> str:
        return os.path.join(self._folder, f"part-{number:05d}.parquet")

    def _check(self, options: Mapping[str, Any]) -> None:
        path = os.path.join(self._folder, _JOB_NAME)
        try:
            with open(path, encoding="utf-8") as file:
                before = json.load(file)
        except (OSError, ValueError) as error:
            raise JournalError(f"{path}: cannot read the journal: {error}; start again with --overwrite") from error
        changed = differences(before, json.loads(json.dumps(dict(options))))
        if changed:
            raise JournalError(
                f"{changed}: results would be a mixture; use the earlier options, or start again with --overwrite"
            )


def has_journal(folder: str) -> bool:
    """Return whether a job was begun in a folder."""
    return os.path.isfile(os.path.join(folder, _JOB_NAME))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return which options changed, as text for an error message; "" if none did."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in changed)
