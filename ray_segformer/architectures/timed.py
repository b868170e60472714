"""What the six have in common: batches in, a predictor that notes its times, and a run's masks in input order."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray

from ray_segformer.air import Checkpoint, installed
from ray_segformer.architectures.timeline import Recorder, Timeline
from ray_segformer.images import object_array
from ray_segformer.predictor import SegformerPredictor


class Run(NamedTuple):
    """What an architecture returns.

    Attributes:
        masks: class ids `(height, width)` of each image, in the order of the images; None for a row that failed, with
            `on_error="keep"`.
        timeline: who did what when.
    """

    masks: list[np.ndarray | None]
    timeline: Timeline


class TimedPredictor(SegformerPredictor):
    """A `SegformerPredictor` that notes when it loaded its model, and when it preprocessed and predicted which images.

    A batch has a column `index`, the images' positions in the input. A prediction has a further column `events`: what
    was noted since the last one, as text in its first row.

    Args:
        source, options: as for `SegformerPredictor`.
        slow_worker: a `SlowWorker` actor, which may tell this worker to be slow.
    """

    def __init__(self, source: Any, *, slow_worker: Any = None, **options: Any):
        self._recorder = Recorder()
        with self._recorder.note("load"):
            super().__init__(source, **options)
        self._slowness = 1.0 if slow_worker is None else ray.get(slow_worker.slowness.remote(os.getpid()))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, *, use_gpu: bool | None = None, **options: Any) -> TimedPredictor:
        """Load a predictor; all arguments are those of the class."""
        return cls(checkpoint, use_gpu=use_gpu, **options)

    def predict(self, data: Any, **kwargs: Any) -> Any:
        """Predict a dict of arrays with the columns `index` and, raw or preprocessed, images."""
        if "pixel_values" not in data:
            with self._recorder.note("preprocess", data["index"]):
                data = self._images.transform_batch(data)
        with self._recorder.note("predict", data["index"]):
            started = time.perf_counter()
            predictions = super().predict(data, **kwargs)
            if self._slowness > 1:
                time.sleep((self._slowness - 1) * (time.perf_counter() - started))
        predictions["events"] = in_first_row(self._recorder.take(), len(data["index"]))
        return predictions


class SlowWorker:
    """Chooses one of a run's workers, the first that asks, to be slow. For `ray.remote(SlowWorker).remote(3.0)`.

    Args:
        slowness: how many times as long that worker takes to predict; it waits in between.
    """

    def __init__(self, slowness: float):
        self._slowness = slowness
        self._process: int | None = None

    def slowness(self, process: int) -> float:
        """How slow the worker with this process id is to be: 1 for all but one."""
        if self._process is None:
            self._process = process
        return self._slowness if process == self._process else 1.0


def check(images: Sequence[Any], workers: int, batch_size: int) -> None:
    """Refuse what no architecture can do.

    Raises:
        ValueError: there are no images, or there is less than one worker, or one image in a batch.
    """
    if len(images) == 0:
        raise ValueError("there are no images to segment")
    for name, number in (("workers", workers), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is at least 1, not {number}")


def split(images: Sequence[Any], batch_size: int) -> list[dict[str, np.ndarray]]:
    """Image cells as batches with the columns `index`, the position in the input, and `image`."""
    return [
        {"index": np.arange(start, start + len(batch)), "image": object_array(batch)}
        for start in range(0, len(images), batch_size)
        for batch in [images[start : start + batch_size]]
    ]


def rows(images: Sequence[Any]) -> list[dict[str, Any]]:
    """Image cells as the rows of a dataset, with the columns of `split`."""
    # Ray Data would pickle a pathlib.Path into every row.
    cells = [os.fspath(cell) if isinstance(cell, os.PathLike) else cell for cell in images]
    return [{"index": row, "image": cell} for row, cell in enumerate(cells)]


def in_first_row(text: str, rows: int) -> np.ndarray:
    """A column with a text for the whole batch in its first row."""
    return object_array([text, *[""] * (rows - 1)])


def collect(batches: Iterable[Any], images: int, start: float) -> Run:
    """The masks of a run, in input order, and its timeline.

    Args:
        batches: predictions of `TimedPredictor` in any order, with `index`.
        images: how many there must be.
        start: when the run started, in seconds since the epoch.

    Raises:
        RuntimeError: an image has no prediction, or two.
    """
    masks: list[np.ndarray | None] = [None] * images
    seen = np.zeros(images, int)
    notes: list[str] = []
    for batch in batches:
        if isinstance(batch, pa.Table):  # with on_error="keep"
            batch = installed.convert_to_numpy(batch)
        errors = batch.get("error", [None] * len(batch["index"]))
        for row, mask, error in zip(batch["index"], batch["segmentation"], errors, strict=True):
            seen[row] += 1
            masks[row] = None if error else mask
        for column in ("preprocess_events", "events"):
            notes.extend(batch.get(column, ()))
    if (seen != 1).any():
        row = int(np.argmax(seen != 1))
        raise RuntimeError(f"image {row} was predicted {seen[row]} times; each is to be predicted once")
    return Run(masks, Timeline.of(notes, start, time.time()))


def worker_resources(workers: int, num_cpus: float | None, num_gpus: float, spare_cpus: float = 0) -> dict[str, Any]:
    """What a worker reserves: `num_cpus`, or else one CPU, or less where the cluster has not so many.

    Args:
        workers, num_cpus, num_gpus: of an architecture.
        spare_cpus: how many CPUs of the cluster are left to others.
    """
    if num_cpus is None:
        available = max(ray.cluster_resources().get("CPU", 1) - spare_cpus, 0)
        num_cpus = min(1.0, math.floor(available / workers * 100) / 100)
    return {"num_cpus": num_cpus, "num_gpus": num_gpus}
