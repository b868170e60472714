"""Where sliding windows stand."""

from __future__ import annotations


def check_window(window: int, stride: int) -> None:
    """Check that windows are of at least one pixel, and leave no gaps.

    Raises:
        ValueError: they do not; the message names the wrong value and what is expected.
    """
    for name, value in (("window", window), ("stride", stride)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} (--{name}) is a number of pixels of at least 1, not {value!r}")
    if stride > window:
        raise ValueError(f"a stride of {stride} pixels leaves gaps between windows of {window} pixels")


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start along a side of `length` pixels, as mmsegmentation's `slide_inference` places them.

    One starts at every stride. The last one ends where the side ends. A side that is shorter than a window has one.
    """
    return [min(start, max(length - window, 0)) for start in range(0, max(length - window, 0) + stride, stride)]
