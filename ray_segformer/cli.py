"""The command `ray-segformer`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from ray_segformer.commands import common, compare, demo, evaluate, info, predict


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(common.EXIT_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 1 when images failed, or 2 when it was asked for the impossible."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("ray-segformer: interrupted; nothing was left under the output's name", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ray-segformer", description="Batch semantic segmentation with SegFormer on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (predict, compare, evaluate, info, demo):
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
