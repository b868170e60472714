"""The options that say how images are shown to the network, which `predict`, `evaluate` and `compare` have."""

from __future__ import annotations

import argparse
from typing import Any

from ray_segformer.commands.common import positive


def add_protocol_options(command: argparse._ActionsContainer) -> None:
    """Add a group with `--resize`, `--window`, `--stride`, `--flip` and `--scales`."""
    command = command.add_argument_group("how images are shown to the network")
    command.add_argument(
        "--resize",
        choices=("square", "short-side", "none"),
        help="square: resize to the model's size, whatever the aspect ratio; short-side: keep the aspect ratio, as "
        "mmsegmentation does (short side 512, long side at most 2048, multiples of 32); none: do not resize (default: "
        "what the model's preprocessor_config.json says, which is mostly square; with --window, none)",
    )
    command.add_argument(
        "--window", type=positive, metavar="N", help="predict in sliding windows of N x N pixels, for large images"
    )
    command.add_argument(
        "--stride", type=positive, metavar="N", help="pixels between windows (default: as --window, without overlap)"
    )
    command.add_argument("--flip", action="store_true", help="average the logits with those of the mirror image")
    command.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="X",
        help="average the logits of the image at these sizes, such as 0.75 1 1.25",
    )


def protocol_of(arguments: argparse.Namespace) -> Any:
    """Return the `Protocol` that the options say.

    Raises:
        ValueError: options contradict each other; the message names them.
    """
    from ray_segformer.protocol import Protocol

    return Protocol(arguments.resize, arguments.flip, arguments.window, arguments.stride, tuple(arguments.scales))
