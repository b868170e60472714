"""The images of an input, before they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from ray_segformer._guesses import Guess


class InputError(ValueError):
    """An input has no images, or cannot be read. The message says what was expected, and where."""


class ColumnTypeError(InputError):
    """A column of a table is there, and its type holds no image cells."""


@dataclass(frozen=True)
class ImageInput:
    """The images of an input.

    Attributes:
        rows: the number of images.
        dataset: makes a Ray dataset of the images. Its optional arguments are the `DoneRows` to leave out, or the
            number `sample` of rows that are wanted, about, spread over the input; and whether names must differ, which
            costs another look at the paths in parquet. The columns:

            * `path`: an absolute path or a URI, without user, password and options. A path that is not UTF-8 is a URI;
              see `readable`.
            * `index`: the row's place in the input, from 0.
            * `image`: an image cell: the path, the URI with the options of its source, or encoded bytes.
            * `name`: a name for the output file: relative and without suffix. Names of files differ; those in parquet
              do with `distinct_names=True`.
            * `key`: identifies the row, in whatever order the rows come.
            * those of `columns`.
        keys: returns the keys of all rows, in any order.
        take: returns the first rows of the dataset, as many as its argument says, without Ray.
        file: a file that tasks read, as an image cell: an image, or parquet.
        guesses: the warnings about the input, such as files that are not looked at.
        is_last: whether these are the last images of the input, or all. Rounds are not, but for the last one.
        rows_at_once: the most rows of a batch; fewer than in other inputs if images are large. None: any number.
        columns: what else says which image a row is, where a file has several. Outputs have these columns, too.
    """

    rows: int
    dataset: Callable[..., ray.data.Dataset]
    keys: Callable[[], Iterator[str]]
    take: Callable[[int], list[dict[str, Any]]]
    file: str
    guesses: list[Guess] = field(default_factory=list)
    is_last: bool = True
    rows_at_once: int | None = None
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
