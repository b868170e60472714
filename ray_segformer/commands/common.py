"""What all commands share: exit codes, types and help of options, models by name, and error messages."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)

EXIT_FAILURES = 1  # some images failed, or the run stopped early
EXIT_USAGE = 2  # the arguments are wrong, or the input cannot be used

_EXAMPLE = "example:"

MODEL_HELP = 'a directory, a name on the Hugging Face Hub, or "demo" for the packaged model of synthetic scenes'


class HelpFormatter(argparse.HelpFormatter):
    """Adds the default to the help of an option, unless it is None or False, and keeps the lines of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default, text = action.default, action.help or ""
        if default is None or default is False or default == argparse.SUPPRESS or "(default: " in text:
            return action.help
        values = default if isinstance(default, list) else [default]
        return f"{text} (default: {' '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLE) else super()._fill_text(text, width, indent)


def example(command: str) -> str:
    """Return the end of a command's help, which shows a use of it."""
    return f"{_EXAMPLE}\n  ray-segformer {command}"


def probability(text: str) -> float:
    """Convert an argument to a number above 0 and below 1."""
    return _number(text, float, lambda number: 0 < number < 1, "a number above 0 and below 1")


def positive(text: str) -> int:
    """Convert an argument to a whole number of at least 1."""
    return _number(text, int, lambda number: number >= 1, "a whole number of at least 1")


def class_id(text: str) -> int:
    """Convert an argument to a class id that annotations can have."""
    return _number(text, int, lambda number: 0 <= number <= 65535, "a class id in [0, 65535]")


def seed(text: str) -> int:
    """Convert an argument to a whole number of at least 0."""
    return _number(text, int, lambda number: number >= 0, "a whole number of at least 0")


def not_negative(text: str) -> float:
    """Convert an argument to a finite number of at least 0."""
    return _number(text, float, lambda number: 0 <= number < math.inf, "a number of at least 0")


def _number(text: str, kind: Callable[[str], Number], is_right: Callable[[Number], bool], expected: str) -> Number:
    with contextlib.suppress(ValueError):
        number = kind(text)
        if is_right(number):
            return number
    raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")


def add_max_pixels(command: argparse._ActionsContainer) -> None:
    """Add the option `--max-pixels`, which all commands that read images have. Its value is None if it is not given."""
    command.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="refuse images of more pixels, to protect the memory (default: 178956970)",
    )


def add_exclude(command: argparse._ActionsContainer) -> None:
    """Add the option `--exclude`, which all commands that read folders have. Its value is a list; None if not given."""
    command.add_argument(
        "--exclude",
        action="append",
        metavar="GLOB",
        help="leave out the files that match, by their path relative to INPUT or by their name, such as '*_mask.png'; "
        "may be given several times",
    )


def checkpoint_of(model: str) -> Any:
    """Return the `SegformerCheckpoint` that `--model` names."""
    from ray_segformer.checkpoint import SegformerCheckpoint

    return SegformerCheckpoint.demo() if model == "demo" else SegformerCheckpoint.from_pretrained(model)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print each `SegformerWarning` once on stderr, as one line without the line of code that raised it."""
    from ray_segformer._guesses import SegformerWarning

    said = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
            if not isinstance(message, SegformerWarning):
                show(message, category, *where, **options)
            elif str(message) not in said:
                said.add(str(message))
                print(f"ray-segformer: warning: {printable(message)} [{message.code}]", file=sys.stderr)

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


def fail_by_line(code: int, error: Any) -> int:
    """Print each line of a message as `fail` does, and return the exit code."""
    for line in str(error).splitlines():
        fail(code, line)
    return code


def fail_in_job(error: BaseException, hint: str = "") -> int:
    """Print one line on stderr that says why a job ended, and return the exit code.

    The traceback of an unexpected exception is written to a file, which the line names.

    Args:
        error: the exception that ended the job. Ray may have wrapped it.
        hint: what the user can do. It follows the error.
    """
    from ray_segformer.jobs import explain

    return fail(EXIT_FAILURES, explain(error, hint))


def counted(number: int, noun: str) -> str:
    """Return a number of things: "1 image", or "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def name_width(names: Iterable[str]) -> int:
    """Return the width of the column of names in a table: 24, or more for longer names, which are not cut."""
    return max([24, *(len(name) + 1 for name in names)])


def printable(message: Any) -> str:
    """Return a message as one line without secrets, which sends no escape sequences of a file name to the terminal."""
    from ray_segformer.images import without_options

    line = " ".join(without_options(str(message)).split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
