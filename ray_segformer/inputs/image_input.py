"""The images of an input, before they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from ray_segformer.guesses import Guess


class InputError(ValueError):
    """An input has no images, or cannot be read. The message says what was expected, and where."""


@dataclass(frozen=True)
class ImageInput:
    """The images of an input.

    Attributes:
        rows: the number of images.
        dataset: makes a Ray dataset of the images. Its optional arguments are the `DoneRows` to leave out, or the
            number `sample` of rows that are wanted, about, spread over the input. The columns:

            * `path`: an absolute path or a URI, without user, password and options. A path that is not UTF-8 is a URI;
              see `readable`.
            * `image`: an image cell: the path, the URI with the options of its source, or encoded bytes.
            * `name`: a name for the output file: relative and without suffix. Different files have different names.
            * `key`: identifies the row, in whatever order the rows come.
        keys: returns the keys of all rows, in any order.
        take: returns the first rows of the dataset, as many as its argument says, without Ray.
        guesses: what is to be said about the input, such as files that are not looked at.
    """

    rows: int
    dataset: Callable[..., ray.data.Dataset]
    keys: Callable[[], Iterator[str]]
    take: Callable[[int], list[dict[str, Any]]]
    guesses: list[Guess] = field(default_factory=list)
