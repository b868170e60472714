"""Which rows of a job are done: a small file for each shard, from which an interrupted job goes on."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

_DIGEST_BYTES = 16
_DIGEST = f"S{_DIGEST_BYTES}"
_JOB_NAME = "job.json"
_SCHEMA = pa.schema([("key", pa.binary(_DIGEST_BYTES)), ("name", pa.string()), ("cause", pa.string())])


class JournalError(ValueError):
    """A job that cannot go on; the message says why, and what to do."""


class DoneRows:
    """The keys of rows that are done: 16 bytes a row, whatever the key.

    Args:
        digests: `(N,)`, of the dtype S16, in any order.
    """

    def __init__(self, digests: np.ndarray):
        self._digests = np.sort(digests)

    def __len__(self) -> int:
        return len(self._digests)

    def among(self, keys: Iterable[str]) -> np.ndarray:
        """Which of the keys are done: bool `(N,)`."""
        wanted = digests_of(keys)
        if not len(self):
            return np.zeros(len(wanted), bool)
        places = np.searchsorted(self._digests, wanted).clip(max=len(self) - 1)
        return self._digests[places] == wanted


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
        self._digests = [np.empty(0, _DIGEST)]
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
        columns = {"key": [digest.ljust(_DIGEST_BYTES, b"\0") for digest in digests.tolist()]}
        columns |= {name: [row[name] for row in rows] for name in ("name", "cause")}
        table = pa.table(columns, schema=_SCHEMA)
        write_atomically(self._part(self.shards), parquet_bytes(table))
        self._remember(table)

    def _remember(self, table: pa.Table) -> None:
        self._digests.append(np.array(table.column("key").to_pylist(), _DIGEST))
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


def digests_of(keys: Iterable[str]) -> np.ndarray:
    """What is kept of keys: S16 `(N,)`. Two of ten million are alike with a chance of 1e-25."""
    texts = (key.encode("utf-8", "surrogatepass") for key in keys)
    digests = (hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest() for text in texts)
    return np.fromiter(digests, _DIGEST)


def parquet_bytes(table: pa.Table) -> bytes:
    """The content of a parquet file."""
    buffer = io.BytesIO()
    pa.parquet.write_table(table, buffer)
    return buffer.getvalue()


def write_atomically(path: str, content: bytes, *, durable: bool = True) -> None:
    """Write a file that is there as a whole or not at all, whenever the process is killed.

    Args:
        path: in a folder that exists.
        content: the whole of it.
        durable: wait until the disk has it, so that this holds for a power failure, too.
    """
    # Always the same name: what a killed process left there is replaced, and not left for ever.
    unfinished = path + "~"
    with open(unfinished, "wb", opener=_open_here) as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(unfinished, path)
    if durable:
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open_here(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)  # a link may lead elsewhere
