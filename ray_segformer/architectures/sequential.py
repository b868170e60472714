"""One process, one loop: the baseline, without Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ray_segformer.architectures.timed import Run, TimedPredictor, check, collect, split


def sequential(images: Sequence[Any], checkpoint: Any, *, workers: int = 1, batch_size: int = 4, **options: Any) -> Run:
    """Segment images in a loop, in this process.

    The model is loaded once, and each batch waits for the one before. The only cores at work are those that
    torch's own threads use; a second GPU, or a second machine, never are.

    Args:
        images: image cells (see `ray_segformer.images`): paths, encoded bytes, arrays.
        checkpoint: a `SegformerCheckpoint`, or any checkpoint of Ray that holds a SegFormer.
        workers: 1; there is no other worker than this process, and other numbers change nothing.
        batch_size: images predicted at once.
        options: for `SegformerPredictor`, such as `runtime` or `on_error`.

    Returns:
        The masks in the order of the images, and the timeline.

    Raises:
        ValueError: no images, or `workers` or `batch_size` below 1.
    """
    check(images, workers, batch_size)
    start = time.time()
    predictor = TimedPredictor(checkpoint, **options)
    results = [predictor(batch) for batch in split(images, batch_size)]
    return collect(results, len(images), start)
