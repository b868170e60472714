"""Where a job's time goes: counted in its workers, in the summary and in Ray's metrics."""

import numpy as np
import pytest
import ray

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer import _stage_times as stage_times
from ray_segformer.demo import write_scenes
from ray_segformer.predict import predict


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images, of which one is broken."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 12, height=96, width=128)
    (folder / "images" / "scene_00005.jpg").write_bytes(b"broken")
    return folder / "images"


def test_a_job_says_where_its_time_went(images, ray_session, tmp_path):
    options = {"batch_size": 4, "workers": 1, "on_error": "keep", "progress": False}
    summaries = []
    with pytest.raises(Exception, match="scene_00005"):  # what its workers counted is not that of the next job
        predict(str(images), str(tmp_path / "failed"), SegformerCheckpoint.demo(), **{**options, "on_error": "raise"})
    for name in ("one", "two"):
        # What a job left that broke off.
        totals = stage_times.start_totals()
        ray.get(totals.add.remote(stage_times._job(), {"decode": 1000.0}, {"decode": 8}))
        assert ray.get(totals.get.remote())["decode"] == {"seconds": 1000, "rows": 8}
        summaries.append(predict(str(images), str(tmp_path / name), SegformerCheckpoint.demo(), **options))
    for summary in summaries:  # the second is not the sum of both
        rows = {stage: spent["rows"] for stage, spent in summary["stages"].items()}
        assert rows == {
            "decode": 12,
            "resize": 11,
            "network": 11,
            "argmax": 11,
            "encode": 12,
            "write": 12,
            "waiting": 8,
        }
        seconds = {stage: spent["seconds"] for stage, spent in summary["stages"].items()}
        busy = seconds["network"] + seconds["argmax"] + seconds["waiting"]
        assert seconds["network"] > 0 and 0 < seconds["decode"] < 1000
        assert busy <= summary["seconds"]


def test_a_compilation_waits_for_the_first_images(ray_session):
    totals = stage_times.start_totals()
    job = stage_times._job()
    first = totals.wait_for_images.remote(totals.number.remote())
    ray.get(totals.add.remote("another", {"decode": 1.0}, {"decode": 1}))
    ray.get(totals.add.remote(job, {"waiting": 1.0}, {"waiting": 1}))
    assert ray.wait([first], timeout=0)[0] == []
    ray.get(totals.add.remote(job, {"decode": 1.0}, {"decode": 1}))
    assert ray.get(first) is None
    number = ray.get(totals.number.remote())
    stage_times.start_totals()
    second = totals.wait_for_images.remote(totals.number.remote())
    assert ray.wait([second], timeout=0)[0] == []
    stage_times.start_totals()  # The next job begins, and its own compilation must not wait for the earlier one.
    assert ray.get(second) is None
    assert ray.get(totals.wait_for_images.remote(number)) is None  # of a job that is over


def test_elsewhere_than_in_a_worker_nothing_piles_up():
    predictor = SegformerPredictor(SegformerCheckpoint.demo())
    for _ in range(3):
        predictor.predict({"image": np.zeros((2, 32, 32, 3), np.uint8)})
        assert not stage_times._seconds and not stage_times._batches


def test_a_job_does_not_end_with_its_totals(images, ray_session, tmp_path):
    """Last of all: the driver's later jobs have no statistics either."""
    ray.kill(stage_times.start_totals())
    summary = predict(
        str(images), str(tmp_path / "out"), SegformerCheckpoint.demo(), on_error="keep", workers=1, progress=False
    )
    assert (summary["images"], summary["failures"]) == (12, 1)
    assert summary["stages"]["network"] == {"seconds": 0, "rows": 0}
