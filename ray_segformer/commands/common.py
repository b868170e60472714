"""What all commands share: exit codes, types and help of options, models by name, and error messages."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

EXIT_FAILURES = 1  # some images failed, or the run stopped early
EXIT_USAGE = 2  # the arguments are wrong, or the input cannot be used

MODEL_HELP = 'a directory, a name on the Hugging Face Hub, or "demo" for the packaged model of synthetic scenes'


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to the help of an option, but not where it says nothing: None, and False of a flag."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False
        return action.help if says_nothing else super()._get_help_string(action)


def positive(text: str) -> int:
    """Convert an argument to a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def class_id(text: str) -> int:
    """Convert an argument to a class id that annotations can have."""
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"expected a class id in [0, 65535], got {text}")
    return number


def not_negative(text: str) -> float:
    """Convert an argument to a finite number of at least 0."""
    number = float(text)
    if not (0 <= number < math.inf):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return number


def add_max_pixels(command: argparse.ArgumentParser) -> None:
    """Add the option `--max-pixels`, which all commands that read images have. Its value is None if it is not given."""
    command.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="refuse images of more pixels, to protect the memory (default: 178956970)",
    )


def checkpoint_of(model: str) -> Any:
    """Return the `SegformerCheckpoint` that `--model` names."""
    from ray_segformer.checkpoint import SegformerCheckpoint

    return SegformerCheckpoint.demo() if model == "demo" else SegformerCheckpoint.from_pretrained(model)


def cause(error: BaseException) -> str:
    """Return the line of an exception that says what was wrong, without Ray's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return image_error(error) or (lines[-1] if lines else type(error).__name__)


def image_error(error: BaseException) -> str:
    """Return the message of the `ImageError` that caused an exception; "" if none did.

    Ray wraps the exceptions of its workers, and then only the text of their tracebacks is left.
    """
    from ray_segformer.images import ImageError

    if isinstance(error, ImageError):
        return str(error)
    for line in reversed(str(error).splitlines()):  # the last one: a traceback starts with the causes of an exception
        if re.match(r"\s*(ray_segformer\.[\w.]+\.)?ImageError:", line):
            return line.split("ImageError:", 1)[1].strip()
    return ""


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print what is guessed on stderr, each guess once, in one line and without a line of code."""
    from ray_segformer.guesses import SegformerWarning

    said = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if not issubclass(category, SegformerWarning):
                show(message, category, *where, **options)
            elif str(message) not in said:
                said.add(str(message))
                print(f"ray-segformer: warning: {printable(message)}", file=sys.stderr)

        warnings.simplefilter("always", SegformerWarning)
        warnings.showwarning = show_plainly
        yield


def fail(code: int, error: Any, hint: str = "") -> int:
    """Print one line on stderr that says what was wrong, and return the exit code.

    Args:
        code: the exit code.
        error: an exception, or text.
        hint: what the user can do. It follows the error.
    """
    print(f"ray-segformer: error: {printable(error)}{hint}", file=sys.stderr)
    return code


def printable(message: Any) -> str:
    """Return a message as one line that sends no escape sequences of a file name to the terminal."""
    line = " ".join(str(message).split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
