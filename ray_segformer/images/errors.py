"""Why a cell is no image: the error, and its causes."""

from __future__ import annotations

import re

# Why a cell is no image. Each is how the message of an `ImageError` begins.
CAUSES = (
    *("null", "empty", "cannot read", "not an image", "cannot decode", "too large"),
    *("wrong type", "wrong shape", "wrong pixels", "wrong annotation"),
)
_CAUSE = re.compile(
    rf"(?:row \d+ of the batch(?: \(.*?\))?: )?({'|'.join(CAUSES)})(?=: | the | in | for | \()", re.DOTALL
)


class ImageError(ValueError):
    """A cell that is no readable image; the message says why, beginning with one of `CAUSES`, and what was expected."""


def cause_of(error: str) -> str:
    """Which of `CAUSES` a text of an `error` column tells of; "other" for what somebody else put there."""
    found = _CAUSE.match(error)
    return found[1] if found else "other"
