"""What is guessed is said: a warning with a stable code, which can be filtered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping


class SegformerWarning(UserWarning):
    """Something that changes results was not said, and is assumed.

    Attributes:
        code: what kind of assumption it is, such as "no-preprocessor-config".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def say(guesses: Mapping[str, str]) -> None:
    """Warn of each guess, given as a sentence by its code."""
    for code, message in guesses.items():
        warnings.warn(SegformerWarning(code, message), stacklevel=3)
