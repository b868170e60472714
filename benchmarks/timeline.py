"""Measure what recording the timeline costs the workers of `ray_segformer.architectures`."""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.measure import TIME_COLUMNS, Contestant, Table, compare, timed
from benchmarks.settings import Settings
from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.architectures import TimedPredictor
from ray_segformer.architectures._timed import in_first_row
from ray_segformer.architectures._timeline import Recorder

_BATCH_SIZE = 4
_TIMES = 1000


def run(settings: Settings) -> list[Table]:
    """Return a table of predictions with and without recording, and one of the recording alone."""
    checkpoint = SegformerCheckpoint.from_pretrained(settings.model)
    batch = {"index": np.arange(_BATCH_SIZE), "image": np.array(settings.streets[:_BATCH_SIZE], object)}
    plain, recording = SegformerPredictor(checkpoint), TimedPredictor(checkpoint)
    contestants = [
        Contestant("without recording", "peer", timed(plain, batch), "without recording"),
        Contestant("with recording", "ours", timed(recording, batch), "without recording"),
    ]
    rows = compare(contestants, settings.rounds(20), images=_BATCH_SIZE)
    seconds = rows[0]["median"] * _BATCH_SIZE
    cost = statistics.median(_record(batch["index"]) for _ in range(_TIMES))
    share = {"name": "two events, as text in a column", "us": cost * 1e6, "percent": 100 * cost / seconds}
    return [
        Table(f"Predicting batches of {_BATCH_SIZE} street frames, B0, eager", TIME_COLUMNS, rows),
        Table(
            "Recording a batch",
            {"name": "", "us": "us/batch", "percent": "% of the batch's time"},
            [share],
            [f"The median of {_TIMES}. The table above shows the same difference, if the machine is quiet enough."],
        ),
    ]


def _record(index: np.ndarray) -> float:
    """Do all that a worker does for the timeline in a batch. Return the seconds it took."""
    started = time.perf_counter()
    recorder = Recorder()
    with recorder.note("preprocess", index):
        pass
    with recorder.note("predict", index):
        pass
    in_first_row(recorder.take(), len(index))
    return time.perf_counter() - started
