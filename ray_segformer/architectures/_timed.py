"""The parts that the six architectures share: making batches, a predictor with events, collecting the masks."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from ray_segformer.air import installed
from ray_segformer.architectures._timeline import Recorder, Timeline
from ray_segformer.images import object_array
from ray_segformer.predictor import SegformerPredictor


class Run(NamedTuple):
    """The result of an architecture.

    Attributes:
        masks: class ids `(height, width)` of each image, in the order of the images. None for a row that failed, with
            `on_error="keep"`.
        timeline: the events of all workers.
    """

    masks: list[npt.NDArray[Any] | None]
    timeline: Timeline


class TimedPredictor(SegformerPredictor):
    """A `SegformerPredictor` that records when it loaded its model, and when it preprocessed and predicted images.

    A batch must have a column `index`, the positions of the images in the input. Predictions have an additional column
    `events`: the events since the last prediction, as text in the first row.

    Args:
        source: as for `SegformerPredictor`.
        slow_worker: a `SlowWorker` actor, which may slow this worker down.
        options: as for `SegformerPredictor`.
    """

    def __init__(self, source: Any, *, slow_worker: Any = None, **options: Any) -> None:
        self._recorder = Recorder()
        with self._recorder.note("load"):
            super().__init__(source, **options)
        self._slowness = 1.0 if slow_worker is None else ray.get(slow_worker.slowness.remote(os.getpid()))

    def predict(self, data: Any, **kwargs: Any) -> Any:
        """Predict a dict of arrays with a column `index`, and with raw or preprocessed images."""
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
    """Makes one worker of a run slow: the first one that asks. It is an actor: `ray.remote(SlowWorker).remote(3.0)`.

    Args:
        slowness: how many times longer this worker takes for a prediction. It sleeps after each prediction.
    """

    def __init__(self, slowness: float) -> None:
        self._slowness = slowness
        self._process: int | None = None

    def slowness(self, process: int) -> float:
        """Return the slowness of the worker with this process id: 1 for all workers but one."""
        if self._process is None:
            self._process = process
        return self._slowness if process == self._process else 1.0


def check(images: Sequence[Any], workers: int, batch_size: int) -> None:
    """Check the arguments of an architecture.

    Raises:
        ValueError: there are no images, or `workers` or `batch_size` is below 1.
    """
    if len(images) == 0:
        raise ValueError("there are no images to segment")
    for name, number in (("workers", workers), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is at least 1, not {number}")


def split(images: Sequence[Any], batch_size: int) -> list[dict[str, np.ndarray]]:
    """Split image cells into batches with the columns `index` (the position in the input) and `image`."""
    return [
        {"index": np.arange(start, start + len(batch)), "image": object_array(batch)}
        for start in range(0, len(images), batch_size)
        for batch in [images[start : start + batch_size]]
    ]


def rows(images: Sequence[Any]) -> list[dict[str, Any]]:
    """Convert image cells to the rows of a dataset, with the same columns as `split`."""
    # Text instead of pathlib.Path, which Ray Data would pickle in every row.
    cells = [os.fspath(cell) if isinstance(cell, os.PathLike) else cell for cell in images]
    return [{"index": row, "image": cell} for row, cell in enumerate(cells)]


def in_first_row(text: str, rows: int) -> np.ndarray:
    """Return a column with a text in its first row, which is about the whole batch; other rows are empty."""
    return object_array([text, *[""] * (rows - 1)])


def collect(batches: Iterable[Any], images: int, start: float) -> Run:
    """Collect the masks of a run, in the order of the input, and its timeline.

    Args:
        batches: predictions of `TimedPredictor` in any order, with the column `index`.
        images: the number of images in the input.
        start: when the run started, in seconds since the epoch.

    Raises:
        RuntimeError: an image has no prediction, or several.
    """
    masks: list[npt.NDArray[Any] | None] = [None] * images
    seen = np.zeros(images, int)
    notes: list[str] = []
    for batch in batches:
        if isinstance(batch, pa.Table):  # The predictor makes tables with on_error="keep".
            batch = installed.convert_to_numpy(batch)
        errors = batch.get("error", [None] * len(batch["index"]))
        for row, mask, error in zip(batch["index"], batch["segmentation"], errors, strict=True):
            seen[row] += 1
            masks[row] = None if error else mask
        for column in ("preprocess_events", "events"):
            notes.extend(batch.get(column, ()))
    if (seen != 1).any():
        row = int(np.argmax(seen != 1))
        raise RuntimeError(f"image {row} was predicted {seen[row]} times, expected once")
    return Run(masks, Timeline.of(notes, start, time.time()))


def worker_resources(workers: int, num_cpus: float | None, num_gpus: float, spare_cpus: float = 0) -> dict[str, Any]:
    """Return the resources that a worker reserves, as `num_cpus` and `num_gpus`.

    Args:
        workers: the number of workers.
        num_cpus: CPUs of a worker; None for one CPU, or less if the cluster has too few for all workers.
        num_gpus: GPUs of a worker.
        spare_cpus: with `num_cpus=None`, how many CPUs of the cluster the workers leave free.
    """
    if num_cpus is None:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        available = max(resources.get("CPU", 1) - spare_cpus, 0)
        num_cpus = min(1.0, math.floor(available / workers * 100) / 100)
    return {"num_cpus": num_cpus, "num_gpus": num_gpus}
