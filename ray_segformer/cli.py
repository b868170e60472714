"""The command `ray-segformer`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from ray_segformer.commands import check, common, compare, demo, evaluate, export, info, predict, report


class _Parser(argparse.ArgumentParser):
    """Prints an error as one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(common.EXIT_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


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
    parser = _Parser(prog="ray-segformer", description="Batch semantic segmentation with SegFormer on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (predict, compare, evaluate, export, report, check, info, demo):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
