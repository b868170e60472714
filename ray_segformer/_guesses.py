"""Warnings of what may change results, each with a stable code, by which they can be filtered."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class SegformerWarning(UserWarning):
    """A warning of something that may change results, such as a missing setting that is assumed.

    Attributes:
        code: the kind of warning, such as "no-preprocessor-config".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Guess:
    """Something that may change results, such as a missing setting that is assumed.

    Attributes:
        code: the kind of guess; it stays the same in all versions.
        message: a sentence.
        rows: how many rows or files it concerns; None for all rows.
    """

    code: str
    message: str
    rows: int | None = None

    def as_json(self, rows: int) -> dict[str, Any]:
        """Return the guess as an entry of `warnings` in a summary of a run of so many rows."""
        return {"code": self.code, "message": self.message, "rows": rows if self.rows is None else self.rows}


def say(guesses: Iterable[Guess]) -> None:
    """Warn of each guess."""
    for guess in guesses:
        warnings.warn(SegformerWarning(guess.code, guess.message), stacklevel=3)
