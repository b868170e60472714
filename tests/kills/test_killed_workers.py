"""In every architecture, a worker that is killed in mid-batch costs no mask."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from dying import killed, mortal, quick_demo

from ray_segformer import SegformerPredictor
from ray_segformer.architectures import ARCHITECTURES
from ray_segformer.demo import make_scene


@pytest.fixture(scope="module")
def scenes():
    """16 images of two sizes."""
    return [make_scene(seed, 96 + 20 * (seed % 2), 128)[0] for seed in range(16)]


@pytest.fixture(scope="module")
def masks(scenes):
    """What the predictor makes of each image by itself."""
    predictor = SegformerPredictor(quick_demo())
    return [predictor.predict({"image": scene[None]})["segmentation"][0] for scene in scenes]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "sequential"])
def test_a_killed_worker_costs_no_mask(ray_session, scenes, masks, tmp_path, name):
    checkpoint = mortal(quick_demo(), tmp_path, batches=[2])
    run = ARCHITECTURES[name](scenes, checkpoint, workers=2, batch_size=2)
    (death,) = killed(tmp_path)
    assert not psutil.pid_exists(death["pid"])
    for mask, expected in zip(run.masks, masks, strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert run.timeline.end > death["time"]
    after = [event for event in run.timeline.events if event.kind == "predict" and event.start > death["time"]]
    assert after and all(event.process != death["pid"] for event in after)
