"""A batch of photos of 24 megapixels takes no more memory than a few of them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import ray
from PIL import Image
from reference import picture, run_python

from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.air import installed

PREPROCESS = """
import sys
from ray_segformer import SegformerPreprocessor

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))

preprocessor = SegformerPreprocessor(64)
preprocessor.preprocess({"image": sys.argv[1:2]})
one = peak()
preprocessor.preprocess({"image": sys.argv[1:2] * 6})
print(peak() - one)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux, which notes the peak of a process")
def test_a_task_that_preprocesses_holds_one_decoded_image_at_a_time(tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.fromarray(picture(400, 600)).resize((6000, 4000)).save(photo, quality=75)
    assert int(run_python(PREPROCESS, photo)) < 2 * 6000 * 4000 * 3  # six at once add five


@pytest.mark.skipif(installed.BatchPredictor is not None, reason="Ray's own BatchPredictor knows no pieces")
def test_a_worker_makes_the_masks_of_huge_images_a_few_at_a_time(ray_session):
    class Witness(SegformerPredictor):
        def _predict_numpy(self, data):
            rows = len(data["pixel_values"])
            return super()._predict_numpy(data) | {"rows": np.full(rows, rows)}

    row = {"pixel_values": np.zeros((3, 64, 64), np.uint8), "original_size": np.array([4000, 6000], np.int32)}
    dataset = ray.data.from_items([row] * 3, override_num_blocks=1)
    predictor = BatchPredictor.from_checkpoint(SegformerCheckpoint.demo(), Witness)
    rows = predictor.predict(dataset, batch_size=3, max_scoring_workers=1).iter_rows()
    found = [(row["segmentation"].shape, row["rows"]) for row in rows]
    assert found == [((4000, 6000), 2), ((4000, 6000), 2), ((4000, 6000), 1)]  # 24 MB each, of 64 MiB
