"""The images of an input, before they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray


class InputError(ValueError):
    """An input has no images, or cannot be read. The message says what was expected, and where."""


@dataclass(frozen=True)
class ImageInput:
    """The images of an input.

    Attributes:
        rows: the number of images.
        dataset: makes a Ray dataset of the images. Its optional argument is the `DoneRows` to leave out. The columns:

            * `path`: an absolute path or a URI. A path that is not UTF-8 is a URI; see `readable`.
            * `image`: an image cell, either the path or encoded bytes.
            * `name`: a name for the output file: relative and without suffix. Different files have different names.
            * `key`: identifies the row, in whatever order the rows come.
        keys: returns the keys of all rows, in any order.
        take: returns the first rows of the dataset, as many as its argument says, without Ray.
    """

    rows: int
    dataset: Callable[..., ray.data.Dataset]
    keys: Callable[[], Iterator[str]]
    take: Callable[[int], list[dict[str, Any]]]
