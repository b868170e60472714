"""The options that say how the bands of scenes become colours."""

from __future__ import annotations

import argparse
from typing import Any


def add_scene_options(command: argparse._ActionsContainer) -> None:
    """Add `--bands` and `--range`."""
    command.add_argument(
        "--bands",
        type=_numbers,
        metavar="R,G,B",
        help="read INPUT's TIFF files as georeferenced scenes, with these bands, numbered from 1, as red, green and "
        "blue, such as 3,2,1; with --window, large scenes are divided among the workers (default with --range: 1,2,3)",
    )
    command.add_argument(
        "--range",
        nargs="+",
        metavar="X",
        help="for scenes: the values that become black and white, LOW HIGH, or 'percentile 2 98' for percentiles of "
        "each band; required unless bands have 8 bits",
    )


def bands_of(arguments: argparse.Namespace) -> Any:
    """Return the `Bands` that the options say; None if neither is given.

    Raises:
        ValueError: they have no meaning; the message names them.
    """
    from ray_segformer.images import Bands

    if arguments.bands is None and arguments.range is None:
        return None
    numbers, words = arguments.bands or (1, 2, 3), arguments.range or []
    if not words:
        return Bands(numbers)
    percentile = words[0] == "percentile"
    try:
        low, high = (float(word) for word in words[percentile:])
    except ValueError as error:
        raise ValueError(f"--range is LOW HIGH, or percentile LOW HIGH, not {' '.join(words)}") from error
    return Bands(numbers, low, high, percentile=percentile)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected three numbers of bands with commas between them, such as 3,2,1, or one number; got {text}"
        ) from error
