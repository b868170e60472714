"""What the commands have in common: numbers as arguments, models by name, and how they fail."""

from __future__ import annotations

import argparse
import math
import re
import sys
from typing import Any

EXIT_FAILURES = 1  # the work was done, but not for every image, or it broke off
EXIT_USAGE = 2  # what was asked for cannot be done


def positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def not_negative(text: str) -> float:
    """An argument that is a finite number of at least 0."""
    number = float(text)
    if not (0 <= number < math.inf):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return number


def add_max_pixels(command: argparse.ArgumentParser) -> None:
    """Add the option of all commands that read images; None where it is not given."""
    command.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="an image of more is unreadable, so that none takes all the memory; by default 178956970",
    )


def checkpoint_of(model: str) -> Any:
    """The `SegformerCheckpoint` that `--model` names."""
    from ray_segformer.checkpoint import SegformerCheckpoint

    return SegformerCheckpoint.demo() if model == "demo" else SegformerCheckpoint.from_pretrained(model)


def cause(error: BaseException) -> str:
    """The line that says what was wrong, without Ray's account of where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return image_error(error) or (lines[-1] if lines else type(error).__name__)


def image_error(error: BaseException) -> str:
    """What was wrong with an image, where that is the cause; else ""."""
    from ray_segformer.images import ImageError

    if isinstance(error, ImageError):
        return str(error)
    for line in reversed(str(error).splitlines()):  # causes come first in a traceback, what they caused last
        if re.match(r"\s*(ray_segformer\.[\w.]+\.)?ImageError:", line):
            return line.split("ImageError:", 1)[1].strip()
    return ""


def fail(code: int, error: Any, hint: str = "") -> int:
    """Say in one line what was wrong; returns `code`."""
    line = " ".join(str(error).split())
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)  # no escape sequences
    print(f"ray-segformer: error: {shown}{hint}", file=sys.stderr)
    return code
