"""`ray-segformer report`: turn an output of `predict` into a page to look through."""

from __future__ import annotations

import argparse
from typing import Any

from ray_segformer.commands.common import EXIT_USAGE, HelpFormatter, example, fail


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    report = commands.add_parser(
        "report",
        help="turn masks into a page to look through",
        description="Turn an output of `predict` into a page to look through, in one file that loads nothing: images "
        "and masks (of a large output, a sample), class areas, failures by cause, and times.",
        epilog=example("report segmented/"),
        formatter_class=HelpFormatter,
    )
    report.add_argument("output", metavar="OUTPUT", help="the output of predict, finished or not; a path or a URI")
    report.add_argument(
        "--to", metavar="FILE", help="the page to write; a path or a URI (default: report.html in OUTPUT)"
    )
    report.add_argument(
        "--input", metavar="INPUT", help="the INPUT of predict, if its images need the options of its URI to be read"
    )
    report.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from ray_segformer.inputs import InputError
    from ray_segformer.jobs import report
    from ray_segformer.outputs import OutputError

    try:
        print(report(arguments.output, to=arguments.to, images=arguments.input))
    except (InputError, OutputError) as error:
        return fail(EXIT_USAGE, error)
    return 0
