"""The images in files, in rounds: while the images of a round are read, the next one is listed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from ray_segformer._guesses import Guess
from ray_segformer.images import SUFFIXES
from ray_segformer.inputs._background import in_background
from ray_segformer.inputs._blocks import ROWS_PER_BLOCK, small_blocks, spread
from ray_segformer.inputs._image_input import ImageInput, InputError
from ray_segformer.inputs._location import FileName
from ray_segformer.inputs._mask_names import masks_among
from ray_segformer.inputs._output_names import digests_of_names, file_name_of, is_among, unique_names, with_digest
from ray_segformer.inputs._paths import readable
from ray_segformer.inputs._row_keys import DoneRows, digests_of
from ray_segformer.inputs._selection import Selection, below

FIRST_ROUND = 50_000  # images, which take a second to list, or 50 requests to S3
LATER_ROUNDS = 250_000  # images: actors start again in each round, and the driver keeps a few hundred bytes of each
_MERGED = 2**20  # digests: parts of fewer are merged
PART = 2**15  # images of a round that are Python text at a time


def rounds_of_files(
    files: Iterator[FileName],
    folder: str,
    shown: str,
    selection: Selection,
    first: int | None,
    distinct_names: bool,
    *,
    may_repeat: bool,
) -> Iterator[ImageInput]:
    """Yield the images in files; see `find_rounds`.

    Args:
        files: the files, in order.
        folder: the folder that names for output files are relative to.
        shown: the input, for messages.
        selection: what chose the files.
        first, distinct_names: as for `find_rounds`.
        may_repeat: whether files may be the same.

    Raises:
        InputError: there are no files, or one of the first is parquet, or a glob of `exclude` matched nothing.
    """
    beginning = [*itertools.islice(files, first)]
    following = next(files, None)
    if following is None:
        selection.check()
    if not beginning:
        raise InputError(f"{shown}: no images there (looked for {', '.join(sorted(SUFFIXES))}){selection.excluded}")
    parquet = next((file for file in beginning if file.plain.lower().endswith(".parquet")), None)
    if parquet is not None:
        raise InputError(
            f"{shown}: names {parquet.path}, and a glob or a list names images or videos; give one file of parquet, or "
            "its folder, with --exclude (exclude=) for the files to leave out"
        )
    paths, count = [file.path for file in beginning], len(beginning)
    numbered = Numbered() if may_repeat else None
    keys = numbered.keys(paths) if numbered else paths
    names = unique_names([file.plain for file in beginning], folder, keys)
    masks = masks_among([readable(below(file.plain, folder)) for file in beginning], shown)
    cell, guesses = beginning[0].cell, [*selection.guesses(), *masks]
    names_before = SeenDigests()
    if distinct_names and following is not None:
        names_before.add(digests_of_names(names))
    images = images_of_rows(_table(beginning, 0, keys, names), cell, guesses, is_last=following is None)
    del beginning, paths, keys, names  # before this generator waits for the round to be done
    yield images
    while following is not None:
        parts: list[pa.Table] = []
        files = itertools.chain([following], files)
        while sum(map(len, parts)) < LATER_ROUNDS and (listed := [*itertools.islice(files, PART)]):
            paths = [file.path for file in listed]
            keys = numbered.keys(paths) if numbered else paths
            names = [file_name_of(file.plain, folder) for file in listed]
            if distinct_names:
                for place in np.flatnonzero(names_before.add(digests_of_names(names))).tolist():
                    names[place] = with_digest(names[place], keys[place])
            parts.append(_table(listed, count, keys, names))
            count += len(listed)
        following = next(files, None)
        if following is None:
            selection.check()
        guesses = [*selection.guesses(), *masks]
        yield images_of_rows(pa.concat_tables(parts), cell, guesses, is_last=following is None)


class ListedAhead:
    """The rounds of an input, of which the next one can be listed in a thread while one is worked on.

    Args:
        rounds: from `find_rounds`.
    """

    def __init__(self, rounds: Iterator[ImageInput]) -> None:
        self._rounds = rounds
        self._following: Future[ImageInput | None] | None = None

    def __iter__(self) -> Iterator[ImageInput]:
        while (images := self.list_next().result()) is not None:
            self._following = None
            yield images

    def list_next(self) -> Future[ImageInput | None]:
        """Begin to list the next round, if that is not begun. It takes a processor from what starts meanwhile."""
        if self._following is None:
            self._following = in_background(next, self._rounds, None)
        return self._following


def _table(files: Sequence[FileName], index: int, keys: Sequence[str], names: Sequence[str]) -> pa.Table:
    """Return the rows of files, of which the first one has this place in the input."""
    paths = pa.array([file.path for file in files])  # there may be millions, so equal columns are one
    cells = paths if all(file.cell is file.path for file in files) else pa.array([file.cell for file in files])
    keys_column = paths if all(key is file.path for key, file in zip(keys, files, strict=True)) else pa.array(keys)
    places = pa.array(np.arange(index, index + len(files)))
    return pa.table({"path": paths, "index": places, "image": cells, "name": pa.array(names), "key": keys_column})


def images_of_rows(
    rows: pa.Table,
    file: str,
    guesses: list[Guess],
    *,
    is_last: bool,
    rows_at_once: int | None = None,
    columns: pa.Schema | None = None,
    begins: Callable[[pa.Table], npt.NDArray[np.bool_]] | None = None,
) -> ImageInput:
    """Return rows, which the driver has in memory, as an input.

    Args:
        rows, file, guesses, is_last, rows_at_once, columns: attributes of `ImageInput`.
        begins: returns for some of the rows what `small_blocks` needs.
    """

    def keys() -> Iterator[str]:
        """Yield the keys of all rows. There may be millions, so only a part of them is Python text at a time."""
        for batch in rows.select(["key"]).to_batches(PART):
            yield from batch.column(0).to_pylist()

    def dataset(
        done: DoneRows | None = None, sample: int | None = None, distinct_names: bool = False
    ) -> ray.data.Dataset:
        """Return the rows that are not done, or a sample. With `distinct_names`, no name is that of a row that is."""
        if sample is not None:
            chosen = rows.take(pa.array(spread(len(rows), sample)))
        else:
            chosen = rows if done is None else rows.filter(pa.array(~done.among(keys())))
            chosen = _with_free_names(chosen, done) if done is not None and distinct_names else chosen
        most = min(ROWS_PER_BLOCK, rows_at_once or ROWS_PER_BLOCK)
        return small_blocks(chosen, None if begins is None else begins(chosen), most)

    def take(limit: int) -> list[dict[str, Any]]:
        """Return the first rows."""
        first: list[dict[str, Any]] = rows.slice(0, limit).to_pylist()
        return first

    return ImageInput(len(rows), dataset, keys, take, file, guesses, is_last, rows_at_once, columns or pa.schema([]))


def _with_free_names(rows: pa.Table, done: DoneRows) -> pa.Table:
    """Return rows of which none has the name of a row that is done: of an input that changed, others may have it."""
    names = rows.column("name").to_pylist()
    taken = np.flatnonzero(is_among(names, done.names)).tolist()
    if not taken:
        return rows
    for place in taken:
        names[place] = with_digest(names[place], rows.column("key")[place].as_py())
    return rows.set_column(rows.schema.get_field_index("name"), "name", pa.array(names))


class Numbered:
    """The keys of files by their paths: `a.jpg` and, if a list has it several times, `a.jpg#1`, `a.jpg#2`."""

    def __init__(self) -> None:
        self._seen = SeenDigests()
        self._again = Counter[str]()

    def keys(self, paths: Sequence[str]) -> list[str]:
        """Return the keys of the next files."""
        keys = [*paths]
        for place in np.flatnonzero(self._seen.add(digests_of(paths))).tolist():
            self._again[paths[place]] += 1
            keys[place] = f"{paths[place]}#{self._again[paths[place]]}"
        return keys


class SeenDigests:
    """Digests of texts, eight bytes of each. Among ten million texts, the probability of a collision is 3e-6."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint64]] = []  # each is sorted

    def add(self, digests: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
        """Add digests, from `digests_of`, and return for each one whether it came before."""
        beginnings = np.frombuffer(digests.tobytes(), np.uint64)[::2]
        new, first = np.unique(beginnings, return_index=True)
        before = np.ones(len(beginnings), bool)
        before[first] = False
        for part in self._parts:
            before |= part[np.searchsorted(part, beginnings).clip(max=len(part) - 1)] == beginnings
        new = new[~before[first]]
        # Few parts are quick to look through. Large ones take too much memory while they are merged.
        while self._parts and len(self._parts[-1]) < min(2 * len(new), _MERGED):
            new = np.concatenate([self._parts.pop(), new])
            new.sort()
        if len(new):
            self._parts.append(new)
        return before
