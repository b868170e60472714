"""One process, one loop: the baseline, without Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ray_segformer.architectures._timed import Run, TimedPredictor, check, collect, split


def sequential(images: Sequence[Any], checkpoint: Any, *, workers: int = 1, batch_size: int = 4, **options: Any) -> Run:
    """Segment images in a loop, in this process.

    The model is loaded once, and the batches run one after the other. Only torch's own threads use several cores. A
    second GPU or a second machine stays idle. `workers` changes nothing, because this process is the only worker.

    See `ray_segformer.architectures` for the arguments and the result.
    """
    check(images, workers, batch_size)
    start = time.time()
    predictor = TimedPredictor(checkpoint, **options)
    results = [predictor(batch) for batch in split(images, batch_size)]
    return collect(results, len(images), start)
