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
        The exit code: 0; 1 if images failed, the run stopped early, `check` has findings, or masks differ in `compare`;
        2 if the input, the output or the values of options do not fit; 130 if it was interrupted (`predict` and
        `export` return 1 then).

    Raises:
        SystemExit: argparse ended the command: 0 after `--help` or `--version`, 2 if the arguments cannot be parsed.
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
        help="print a completion script for bash, zsh or tcsh, to be saved where the shell loads completions",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (predict, compare, evaluate, export, report, check, info, demo):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(command())
