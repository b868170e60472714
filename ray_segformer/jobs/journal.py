"""Which rows of a job are done: a small file for each shard, from which an interrupted job goes on."""

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
    """A job that cannot go on; the message says why, and what to do."""


class Journal:
    """What a job was asked for, and what it has done, in a folder.

        journal/job.json            the options that results depend on
        journal/part-00000.parquet  a shard's rows: digests of their keys, names, causes of failures

    A part is there when, and only when, the shard is: it is written last, under another name, and then renamed within
    its folder. Nothing else says what is done, so that a process may be killed at any moment.

    Args:
        folder: where the journal is, or is to be.
        options: what results depend on, as JSON can hold it.
        resume: whether to go on with the one that is there.

    Attributes:
        shards: how many are done.
        rows: how many they hold.
        causes: how many rows failed, by cause.

    Raises:
        JournalError: there is no journal to go on with, or its options are others; the message names them.
    """

    def __init__(self, folder: str, options: Mapping[str, Any], *, resume: bool):
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
        """The rows of all shards."""
        return DoneRows(np.concatenate(self._digests))

    def names(self) -> Iterator[str]:
        """The names of these rows, which are read again: of millions, they are not to be kept twice."""
        for number in range(self.shards):
            yield from pa.parquet.read_table(self._part(number), columns=["name"]).column("name").to_pylist()

    def commit(self, rows: list[dict[str, Any]]) -> None:
        """Say that a shard is done, after everything else of it is on disk.

        Args:
            rows: its rows' `key`, `name` and, where they failed, `cause`, else None.
        """
        digests = digests_of(row["key"] for row in rows)
        columns = {"key": [digest.ljust(DIGEST_BYTES, b"\0") for digest in digests.tolist()]}
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
            raise JournalError(f"{path}: no journal of a job to go on with: {error}; start anew") from error
        changed = differences(before, json.loads(json.dumps(dict(options))))
        if changed:
            raise JournalError(f"{changed}: results would be a mixture; go on as before, or start anew")


def has_journal(folder: str) -> bool:
    """Whether a job was begun in a folder."""
    return os.path.isfile(os.path.join(folder, _JOB_NAME))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The options that are not what they were, in words; "" if there are none."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in changed)
