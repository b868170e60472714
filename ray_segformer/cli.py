"""The command `ray-segformer`."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence

from ray_segformer import __version__
from ray_segformer.commands import (
    Parser,
    PrintCompletion,
    check,
    common,
    compare,
    demo,
    evaluate,
    export,
    info,
    predict,
    report,
)


def command() -> int:
    """Run the command `ray-segformer` in a process that ends then. Return the exit code, as `main` does."""
    code = main()
    # When Python ends, it looks for cycles in all that torch and Ray made, which takes most of a second. Without it,
    # Triton's library reports on stderr each of its objects that is left.
    if "triton" not in sys.modules:
        gc.freeze()
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `ray-segformer`.

    Args:
        argv: the arguments. Default: those of the process.

    Returns:
        The exit code: 0; 1 if images failed or the run stopped early; 2 if the arguments or the input are wrong; 130 if
        it was interrupted before it wrote anything.
    """
    arguments = _parser().parse_args(argv)
    try:
        with common.plain_warnings():
            code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt:
        print("ray-segformer: interrupted; the output was not written", file=sys.stderr)
        return 130
    except Exception as error:
        return common.fail_in_job(error)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ray-segformer",
        description="Batch semantic segmentation with SegFormer on Ray.",
        epilog="Begin with: ray-segformer demo out/demo",
    )
    parser.add_argument("--version", action="version", version=f"ray-segformer {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        metavar="SHELL",
        help="print what lets bash, zsh or tcsh complete this command, to be put where the shell reads it",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (predict, compare, evaluate, export, report, check, info, demo):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(command())
