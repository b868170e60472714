"""What all rows of an output say, read once, and which of them are to be shown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from ray_segformer.images import cause_of
from ray_segformer.outputs import ClassAreas

_RANDOM = 12  # images of the random sample
_PER_CLASS, _BEST = 3, 48  # the best images of a class, and of all classes together
_LOOKED_AT, _SHARDS_LOOKED_INTO = 256, 16  # for the least confident: images, and the shards that they are in
_EXAMPLES = 5  # failures that are shown of each cause


class Place(NamedTuple):
    """Where a row is: its shard, and its number there."""

    shard: str
    row: int


class Survey:
    """Counts all rows of an output, and finds those that are to be shown. It keeps few of them, however many there are.

    For the same output, it always finds the same rows.

    Args:
        shards: the names of all shards, in order.

    Attributes:
        columns: those that `add` needs.
        rows: how many there are.
        causes: how many of them failed, by cause.
        failures: the path and the error of the first ones, by cause.
        areas: the areas of the classes.
    """

    columns = ("path", "height", "width", "class_ids", "class_pixels", "error")

    def __init__(self, shards: Sequence[str]) -> None:
        self.rows, self.causes, self.areas = 0, Counter[str](), ClassAreas()
        self.failures: dict[str, list[tuple[str, str]]] = {}
        self._shards = list(shards)
        self._next = 0
        self._random, self._looked_at = _Lowest(_RANDOM), _Lowest(_LOOKED_AT)
        chosen = np.random.default_rng(0).permutation(len(shards))[:_SHARDS_LOOKED_INTO]
        self._looked_into = frozenset(chosen.tolist())
        self._best: dict[int, list[tuple[float, int, int]]] = defaultdict(list)  # share, number of the shard, row
        self._least_best = np.zeros(2**16)  # the share that a row must exceed to be among the best of a class

    def add(self, table: pa.Table) -> None:
        """Add all rows of the next shard."""
        number, self._next = self._next, self._next + 1
        self.rows += len(table)
        self.areas.add(table)
        succeeded = table.column("error").is_null().to_numpy()
        for row in np.flatnonzero(~succeeded).tolist():
            self._add_failure(table.column("path")[row].as_py(), table.column("error")[row].as_py())
        keys = np.random.default_rng([0, number]).random(len(table))[succeeded]
        rows = np.flatnonzero(succeeded)
        self._random.add(keys, number, rows)
        if number in self._looked_into:
            self._looked_at.add(keys, number, rows)
        self._add_best(table, number)

    def _add_failure(self, path: str, error: str) -> None:
        cause = cause_of(error)
        self.causes[cause] += 1
        examples = self.failures.setdefault(cause, [])
        if len(examples) < _EXAMPLES:
            examples.append((path, error))

    def _add_best(self, table: pa.Table, number: int) -> None:
        ids = table.column("class_ids").combine_chunks()
        counts = pa.compute.fill_null(pa.compute.list_value_length(ids), 0).to_numpy()
        rows = np.repeat(np.arange(len(table)), counts)
        sizes = pa.compute.multiply(table.column("height").cast(pa.int64()), table.column("width").cast(pa.int64()))
        pixels = table.column("class_pixels").combine_chunks().flatten().to_numpy()
        class_ids = ids.flatten().to_numpy()
        shares = pixels / pa.compute.fill_null(sizes, 1).to_numpy()[rows]
        better = np.flatnonzero(shares > self._least_best[class_ids])
        order = better[np.lexsort((-shares[better], class_ids[better]))]
        _, firsts, repeats = np.unique(class_ids[order], return_index=True, return_counts=True)
        ranks = np.arange(len(order)) - np.repeat(firsts, repeats)
        for place in order[ranks < _PER_CLASS].tolist():
            class_id = int(class_ids[place])
            best = self._best[class_id]
            best.append((float(shares[place]), number, int(rows[place])))
            best.sort(key=lambda each: -each[0])
            del best[_PER_CLASS:]
            self._least_best[class_id] = best[-1][0] if len(best) == _PER_CLASS else 0.0

    def random(self) -> list[Place]:
        """Return a random sample of the rows with masks."""
        return self._places(self._random)

    def looked_at(self) -> list[Place]:
        """Return the rows in which the least confident ones are to be found: all, or a random sample.

        They are in few shards, because most of a shard must be read for some of its rows.
        """
        return self._places(self._looked_at)

    def best(self) -> dict[int, list[Place]]:
        """Return for each class the rows in which it has the largest shares of the image; the largest first.

        If there are many classes, only those with the most pixels are included. The class with the most comes first.
        """
        ids, pixels, _ = self.areas.as_lists()
        largest = sorted(zip(pixels, ids, strict=True), key=lambda each: (-each[0], each[1]))[:_BEST]
        each = min(max(_BEST // max(len(largest), 1), 1), _PER_CLASS)
        return {
            class_id: [Place(self._shards[number], row) for _, number, row in self._best[class_id][:each]]
            for _, class_id in largest
        }

    def _places(self, rows: _Lowest) -> list[Place]:
        return [Place(self._shards[number], row) for number, row in rows.places.tolist()]


class _Lowest:
    """Keeps the places with the lowest keys: of random keys, a random sample.

    Attributes:
        places: int64 `(N, 2)`, numbers of shards and rows in them, by their keys.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: npt.NDArray[np.float64] = np.empty(0)
        self.places: npt.NDArray[np.int64] = np.empty((0, 2), np.int64)

    def add(self, keys: npt.NDArray[np.float64], number: int, rows: npt.NDArray[np.int64]) -> None:
        """Add rows of a shard with their keys."""
        if len(self._keys) == self._most:
            rows, keys = rows[keys < self._keys[-1]], keys[keys < self._keys[-1]]
        self._keys = np.append(self._keys, keys)
        self.places = np.append(self.places, np.stack([np.full(len(rows), number), rows], axis=1), axis=0)
        order = np.argsort(self._keys)[: self._most]
        self._keys, self.places = self._keys[order], self.places[order]
