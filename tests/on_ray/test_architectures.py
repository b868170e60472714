"""How the architectures differ: who loads, and who gets the next batch.

That all make transformers' masks is tested in tests/on_ray/air, on every supported Ray. Workers that die are tested in
tests/kills.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from PIL import Image
from ray import cloudpickle
from ray.data import ActorPoolStrategy
from reference import agreement, encode, picture

from ray_segformer import SegformerCheckpoint, SegformerPredictor, architectures
from ray_segformer.architectures import ARCHITECTURES, SlowWorker, TimedPredictor
from ray_segformer.architectures import _timed as timed
from ray_segformer.architectures._timed import in_first_row
from ray_segformer.architectures._timeline import Recorder
from ray_segformer.images import ImageError, object_array, to_rgb

pytestmark = pytest.mark.usefixtures("ray_session")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


@pytest.fixture(scope="module")
def checkpoint(small_dir):
    return SegformerCheckpoint.from_pretrained(small_dir)


@pytest.fixture(scope="module")
def scenes():
    """32 images of four sizes."""
    return [picture(40 + 10 * (seed % 4), 60, seed) for seed in range(8)] * 4


@pytest.fixture(scope="module")
def masks(scenes, checkpoint):
    """What the predictor makes of each image by itself."""
    predictor = SegformerPredictor(checkpoint)
    return [predictor.predict({"image": scene[None]})["segmentation"][0] for scene in scenes]


class LightPredictor:
    """Takes the place of `TimedPredictor` where no masks matter, and needs no torch: a mask is the red of the image.

    The batch with image 0 waits until other batches are done.

    Args:
        source: not used.
        gate: an empty folder, in which each batch leaves a file, or None not to wait.
        batches: for how many other batches the batch with image 0 waits.
        processes: for how many other processes it waits.
    """

    def __init__(self, source, *, gate=None, batches=0, processes=0):
        self._recorder = Recorder()
        with self._recorder.note("load"):
            self._gate, self._batches, self._processes = gate, batches, processes

    def __call__(self, batch):
        with self._recorder.note("predict", batch["index"]):
            if self._gate and 0 in batch["index"]:
                self._wait()
            masks = [to_rgb(cell)[..., 0] for cell in batch["image"]]
            if self._gate:
                Path(self._gate, f"{os.getpid()}-{batch['index'][0]}").touch()
        return {
            "index": batch["index"],
            "segmentation": object_array(masks),
            "events": in_first_row(self._recorder.take(), len(batch["index"])),
        }

    def _wait(self):
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            done = [name.split("-")[0] for name in os.listdir(self._gate)]
            if len(done) >= self._batches and len({*done} - {str(os.getpid())}) >= self._processes:
                return
            time.sleep(0.02)
        raise TimeoutError("the other batches never came")


@pytest.fixture
def light(monkeypatch):
    """Lets the workers of three architectures be `LightPredictor`s."""
    for name in ("actors", "actor_pool", "dataset"):
        monkeypatch.setattr(import_module(f"ray_segformer.architectures._{name}"), "TimedPredictor", LightPredictor)


def assert_equal(found, expected):
    assert len(found) == len(expected)
    assert agreement(found, expected) >= 0.9999


def assert_red(found, scenes):
    """The masks are those of `LightPredictor`, in the order of the images."""
    for mask, scene in zip(found, scenes, strict=True):
        np.testing.assert_array_equal(mask, scene[..., 0])


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
    tasks = []  # a process runs one task at a time: its first load is that of its first prediction, and so on
    for worker in run.timeline.workers:
        own = [[event for event in kind if event.worker == worker] for kind in (loads, predictions)]
        tasks += zip(*own, strict=True)
    for load, _ in tasks:
        at_work = [task for task in tasks if task[0].start < load.start < task[1].end]
        assert len(at_work) <= 1  # beside itself


def test_actors_take_turns(scenes, checkpoint, light):
    run = architectures.actors(scenes, checkpoint, workers=3, batch_size=4)
    assert_red(run.masks, scenes)
    assert sorted(batches_of(run.timeline).values()) == [[0, 12, 24], [4, 16, 28], [8, 20]]
    assert run.timeline.loads == 3


def test_behind_a_slow_actor_batches_wait_in_turn(scenes, checkpoint, light, tmp_path):
    run = architectures.actors(scenes, checkpoint, workers=2, batch_size=2, gate=str(tmp_path), batches=3)
    assert_red(run.masks, scenes)
    assert sorted(batches_of(run.timeline).values()) == [list(range(0, 32, 4)), list(range(2, 32, 4))]
    first = {event.images[0]: event for event in events(run.timeline, "predict")}
    # The other actor had three batches while the slow one had its first. Its next one was not submitted before.
    assert max(first[image].start for image in (2, 6, 10)) < first[0].end < first[14].start


def test_a_pool_gives_the_batches_of_a_slow_actor_to_the_other(scenes, checkpoint, light, tmp_path):
    run = architectures.actor_pool(scenes, checkpoint, workers=2, batch_size=2, gate=str(tmp_path), batches=15)
    assert_red(run.masks, scenes)
    slow, fast = sorted(batches_of(run.timeline).values(), key=len)
    assert slow == [0] and sorted(fast) == list(range(2, 32, 2))


def test_a_dataset_starts_with_one_actor_and_grows(scenes, checkpoint, light, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        import_module("ray_segformer.architectures._dataset"),
        "ActorPoolStrategy",
        lambda **options: sizes.append(options) or ActorPoolStrategy(**options),
    )
    # The first image waits for an actor that is not there from the start.
    run = architectures.dataset(scenes, checkpoint, workers=3, batch_size=1, gate=str(tmp_path), processes=1)
    assert_red(run.masks, scenes)
    assert sizes == [{"min_size": 1, "max_size": 3}]
    assert 2 <= run.timeline.loads <= 3
    loads = events(run.timeline, "load")
    assert loads[1].start > loads[0].end


def test_a_slow_worker_sleeps_after_each_prediction(scenes, checkpoint, masks, monkeypatch):
    slow_worker = ray.remote(SlowWorker).options(num_cpus=0).remote(8.0)
    predictor = TimedPredictor(checkpoint, slow_worker=slow_worker)
    assert ray.get(slow_worker.slowness.remote(os.getpid() + 1)) == 1  # all workers but the first
    slept = []
    clock = itertools.count(0, 2).__next__
    monkeypatch.setattr(timed, "time", SimpleNamespace(perf_counter=clock, sleep=slept.append))
    predictions = predictor({"index": np.arange(1), "image": object_array(scenes[:1])})
    assert_equal(predictions["segmentation"], masks[:1])
    assert slept == [14]  # it took 2 seconds by this clock, and 8 times as long are 16


def test_batch_predictor_preprocesses_in_other_processes(scenes, checkpoint, masks):
    run = architectures.batch_predictor(scenes, checkpoint, workers=1, batch_size=4)
    assert_equal(run.masks, masks)
    assert len({event.worker for event in events(run.timeline, "predict")}) == 1
    assert not {e.worker for e in events(run.timeline, "preprocess")} & {
        e.worker for e in events(run.timeline, "predict")
    }
    assert sorted(i for event in events(run.timeline, "preprocess") for i in event.images) == list(range(32))


# Input


@pytest.mark.parametrize("kind", ["arrays", "PIL images", "bytes", "paths"])
def test_image_cells_of_every_kind_go_through_a_dataset(scenes, checkpoint, light, tmp_path, kind):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encode(scenes[number]))
    cells = {
        "arrays": scenes[:3],
        "PIL images": [Image.fromarray(scene) for scene in scenes[:3]],
        "bytes": [encode(scene) for scene in scenes[:3]],
        "paths": [Path(tmp_path, f"{number}.png") for number in range(3)],
    }[kind]
    assert_red(architectures.dataset(cells, checkpoint, workers=1, batch_size=2).masks, scenes[:3])


@pytest.mark.parametrize("name", ["sequential", "tasks", "dataset", "batch_predictor"])
def test_a_bad_image_is_an_error_or_has_no_mask(scenes, checkpoint, masks, name):
    images = [encode(scenes[0]), b"not an image", encode(scenes[2])]
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
