"""The images that an input names, before they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray


class InputError(ValueError):
    """An input that names no images; the message says what was looked for, and where."""


@dataclass(frozen=True)
class ImageInput:
    """What an input names.

    Attributes:
        rows: how many images there are.
        dataset: makes the dataset of them, on Ray, without those that are done. Its rows have `path` (absolute, or a
            URI, as which `readable` gives a path that is no UTF-8), `image` (an image cell: the path, or encoded
            bytes), `name` (relative, without a suffix, unique among files: what an output file may be called), and
            `key` (what tells the row from every other, whatever the order).
        keys: of all rows, in any order.
        take: the first so many of these rows, without Ray.
    """

    rows: int
    dataset: Callable[..., ray.data.Dataset]
    keys: Callable[[], Iterator[str]]
    take: Callable[[int], list[dict[str, Any]]]
