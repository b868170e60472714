"""The error of an output."""

from __future__ import annotations


class OutputError(ValueError):
    """The output cannot be written there. The message says why, and what to do."""
