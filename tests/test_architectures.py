"""How the architectures differ: who loads, who gets the next batch, and what happens when a worker dies.

That all make transformers' masks is tested in tests/air, on every supported Ray.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from PIL import Image

from ray_segformer import SegformerCheckpoint, SegformerPredictor, architectures
from ray_segformer.architectures import ARCHITECTURES, SlowWorker
from ray_segformer.demo import make_scene
from ray_segformer.images import ImageError

ON_RAY = [name for name in ARCHITECTURES if name != "sequential"]
pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def checkpoint():
    return SegformerCheckpoint.demo()


@pytest.fixture(scope="module")
def scenes():
    """32 images of four sizes."""
    return [make_scene(seed, 160 + 20 * (seed % 4), 240)[0] for seed in range(8)] * 4


@pytest.fixture(scope="module")
def masks(scenes, checkpoint):
    """What the predictor makes of each image by itself."""
    predictor = SegformerPredictor(checkpoint)
    return [predictor.predict({"image": scene[None]})["segmentation"][0] for scene in scenes]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for mask, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, other)


def events(timeline, kind):
    return [event for event in timeline.events if event.kind == kind]


def batches_of(timeline):
    """The first image of each predicted batch, by worker."""
    found = {}
    for event in events(timeline, "predict"):
        found.setdefault(event.worker, []).append(event.images[0])
    return found


# Who loads, and who gets the next batch


def test_sequential_loads_once_and_never_leaves_this_process(scenes, checkpoint, masks):
    run = architectures.sequential(scenes, checkpoint, batch_size=5)
    assert_equal(run.masks, masks)
    assert [event.images for event in events(run.timeline, "predict")][-2:] == [(25, 26, 27, 28, 29), (30, 31)]
    assert {event.process for event in run.timeline.events} == {os.getpid()}
    assert run.timeline.loads == 1


def test_tasks_load_for_every_batch_and_no_more_than_so_many_run_at_a_time(scenes, checkpoint, masks):
    run = architectures.tasks(scenes, checkpoint, workers=2, batch_size=4)
    assert_equal(run.masks, masks)
    loads, predictions = events(run.timeline, "load"), events(run.timeline, "predict")
    assert len(loads) == len(predictions) == 8
    for event in loads:  # from the start of the load to the end of its prediction
        at_work = [end for start, end in zip(loads, predictions, strict=True) if start.start < event.start < end.end]
        assert len(at_work) <= 1  # beside itself


def test_actors_take_turns(scenes, checkpoint, masks):
    run = architectures.actors(scenes, checkpoint, workers=3, batch_size=4)
    assert_equal(run.masks, masks)
    assert sorted(batches_of(run.timeline).values()) == [[0, 12, 24], [4, 16, 28], [8, 20]]
    assert run.timeline.loads == 3


@pytest.mark.parametrize("name", ["actors", "actor_pool"])
def test_behind_a_slow_worker_batches_wait_in_turn_but_not_in_a_pool(scenes, checkpoint, masks, name):
    slow_worker = ray.remote(SlowWorker).options(num_cpus=0).remote(8.0)
    run = ARCHITECTURES[name](scenes, checkpoint, workers=2, batch_size=2, slow_worker=slow_worker)
    assert_equal(run.masks, masks)
    seconds = {}
    for event in events(run.timeline, "predict"):
        seconds.setdefault(event.worker, []).append(event.seconds)
    slow, fast = sorted(seconds.values(), key=np.median, reverse=True)
    assert np.median(slow) > 3 * np.median(fast)
    if name == "actors":
        assert len(slow) == len(fast) == 8
    else:
        assert len(slow) < len(fast) and len(slow) + len(fast) == 16


def test_a_dataset_starts_with_one_actor_and_grows(scenes, checkpoint, masks):
    slow_worker = ray.remote(SlowWorker).options(num_cpus=0).remote(8.0)
    run = architectures.dataset(scenes, checkpoint, workers=3, batch_size=1, slow_worker=slow_worker)
    assert_equal(run.masks, masks)
    loads = sorted(event.start for event in events(run.timeline, "load"))
    assert 2 <= len(loads) <= 3
    assert loads[1] > events(run.timeline, "load")[0].end  # not two from the start


def test_batch_predictor_preprocesses_in_other_processes(scenes, checkpoint, masks):
    run = architectures.batch_predictor(scenes, checkpoint, workers=1, batch_size=4)
    assert_equal(run.masks, masks)
    assert len({event.worker for event in events(run.timeline, "predict")}) == 1
    assert not {e.worker for e in events(run.timeline, "preprocess")} & {
        e.worker for e in events(run.timeline, "predict")
    }
    assert sorted(i for event in events(run.timeline, "preprocess") for i in event.images) == list(range(32))


# Workers that die


class Killer(threading.Thread):
    """Kills the first of this Ray's worker processes that is predicting, once it has been for half a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.pid = self.time = None
        self.given_up = threading.Event()

    def run(self):
        while not self.given_up.wait(0.01):
            for process in psutil.Process().children(recursive=True):
                try:
                    title = process.cmdline()[:1]
                except psutil.Error:
                    continue
                if title and title[0] in TITLES:
                    time.sleep(0.5)
                    self.time = time.time()
                    os.kill(process.pid, signal.SIGKILL)
                    self.pid = process.pid
                    return


# How Ray titles processes while they predict.
TITLES = {
    "ray::predict",
    "ray::TimedPredictor.__call__",
    "ray::MapWorker(MapBatches(TimedPredictor)).submit",
    "ray::MapWorker(MapBatches(ScoringWorker)).submit",
}


@pytest.mark.parametrize("name", ON_RAY)
def test_a_killed_worker_costs_no_mask(scenes, checkpoint, masks, name):
    killer = Killer()
    killer.start()
    run = ARCHITECTURES[name](scenes * 3, checkpoint, workers=2, batch_size=2)
    killer.given_up.set()
    killer.join()
    assert killer.pid is not None and not psutil.pid_exists(killer.pid)
    assert_equal(run.masks, masks * 3)
    assert run.timeline.end > killer.time
    after = [event for event in events(run.timeline, "predict") if event.start > killer.time]
    assert after and all(event.process != killer.pid for event in after)


# Input


def encoded(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["arrays", "PIL images", "bytes", "paths"])
def test_image_cells_of_every_kind_go_through_a_dataset(scenes, checkpoint, masks, tmp_path, kind):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(scenes[number]))
    cells = {
        "arrays": scenes[:3],
        "PIL images": [Image.fromarray(scene) for scene in scenes[:3]],
        "bytes": [encoded(scene) for scene in scenes[:3]],
        "paths": [Path(tmp_path, f"{number}.png") for number in range(3)],
    }[kind]
    assert_equal(architectures.dataset(cells, checkpoint, workers=1, batch_size=2).masks, masks[:3])


@pytest.mark.parametrize("name", ["sequential", "tasks", "dataset", "batch_predictor"])
def test_a_bad_image_is_an_error_or_has_no_mask(scenes, checkpoint, masks, name):
    images = [encoded(scenes[0]), b"not an image", encoded(scenes[2])]
    first, bad, last = ARCHITECTURES[name](images, checkpoint, workers=1, batch_size=2, on_error="keep").masks
    assert bad is None
    assert_equal([first, last], [masks[0], masks[2]])
    if name in ("sequential", "tasks"):
        with pytest.raises(ImageError, match="row 1 of the batch"):
            ARCHITECTURES[name](images, checkpoint, workers=1, batch_size=2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_cannot_be_run_is_refused(scenes, checkpoint, name):
    with pytest.raises(ValueError, match="no images"):
        ARCHITECTURES[name]([], checkpoint)
    with pytest.raises(ValueError, match="batch_size is at least 1, not 0"):
        ARCHITECTURES[name](scenes, checkpoint, batch_size=0)
    with pytest.raises(ValueError, match="workers is at least 1, not 0"):
        ARCHITECTURES[name](scenes, checkpoint, workers=0)
