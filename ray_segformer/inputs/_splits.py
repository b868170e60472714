"""The splits of annotated datasets: which of them are there, and which one is meant."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from ray_segformer.inputs._image_input import InputError

# Folders and files of these names are splits. A year or a number may follow (`val2017`), and `split=` may precede.
_NAME = re.compile(
    r"(?:split=)?(training|train|trainval|validation|valid|val|testing|test|dev)(?:[-_.]?\d+)?", re.IGNORECASE
)

# What is read if no split is named, the first that is there.
_DEFAULTS = ("validation", "val", "valid")

_HUB_FILE = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")


def is_split(name: str) -> bool:
    """Return whether a folder or file of this name is a split: `train`, `Val`, `val2017`, `split=test`."""
    return _NAME.fullmatch(name) is not None


def choose_split(splits: Iterable[str], asked: str | None, source: str) -> str:
    """Return the split that is meant.

    Args:
        splits: those that are there.
        asked: the one that the user named; None for "validation", else "val" or "valid". `val` also means `Val` or
            `val2017`, if only one of them is there.
        source: the input, for the error.

    Raises:
        InputError: it is not there. The message lists those that are.
    """
    splits = list(splits)
    for name in _DEFAULTS if asked is None else (asked,):
        if name in splits:
            return name
        similar = [split for split in splits if _plain(split) == name.lower()]
        if len(similar) == 1:
            return similar[0]
    there = f"the splits there are {', '.join(sorted(splits))}" if splits else "it has no splits; leave --split out"
    missing = f"no split {_DEFAULTS[0]!r}" if asked is None else f"no split {asked!r}"
    raise InputError(f"{source}: {missing}; {there}" + (" (choose one with --split, or split=)" if splits else ""))


def _plain(split: str) -> str:
    """Return the name of a split without what may be around it."""
    found = _NAME.fullmatch(split)
    return found[1].lower() if found else split


def split_of_parquet(path: str) -> str:
    """Return the split of a parquet file; "" if its name tells none.

    The Hugging Face Hub names files `data/train-00000-of-00002.parquet`, or `default/train/0000.parquet`. Others are
    called `train_0.parquet`, or `split=train/0.parquet`.
    """
    folder, name = posixpath.split(path)
    hub = _HUB_FILE.fullmatch(name)
    if hub:
        return hub[1]
    names = (posixpath.splitext(name)[0], posixpath.basename(folder))
    return next((found[1] for name in names if (found := _NAME.fullmatch(name))), "")
