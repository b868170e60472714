"""Training on annotations as people have them: other ids, colours, and masks of 0 and 255."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from reference import encode, objects, picture

from ray_segformer import ImageError, SegformerPreprocessor
from ray_segformer.air import installed
from ray_segformer.datasets import read_images
from ray_segformer.train import Settings, train_loop_per_worker
from ray_segformer.training import TrainingRows

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="needs the API of newer Ray Train")

TINY = {
    **{"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]},
    **{"decoder_hidden_size": 16, "id2label": {0: "ground", 1: "tree", 2: "roof"}},
}


def batch(*annotations: np.ndarray) -> dict[str, np.ndarray]:
    count = len(annotations)
    return {
        "path": objects(*(f"{number}.jpg" for number in range(count))),
        "image": objects(*(picture(*annotation.shape[:2]) for annotation in annotations)),
        "annotation": objects(*map(encode, annotations)),
    }


def test_rows_have_the_ids_of_the_model():
    stored = np.array([[0, 4, 200], [9, 255, 4]], np.uint16)
    stored[1, 0] = 50000
    rows = TrainingRows(SegformerPreprocessor(32), 3, label_map={4: 1, 200: 2}, ignore_index=50000)
    _, (annotation,), _ = rows.for_validation(batch(stored))
    assert annotation.tolist() == [[0, 1, 2], [255, 255, 1]] and annotation.dtype == np.uint8
    with pytest.raises(ImageError, match=r"0\.jpg: wrong annotation: the class ids 4, 200, 50000 \(in 4 of 6 pixels\)"):
        TrainingRows(SegformerPreprocessor(32), 3).for_validation(batch(stored))
    colors = {(1, 2, 3): 2, (9, 9, 9): 255}
    pixels = np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8)
    _, (annotation,), _ = TrainingRows(SegformerPreprocessor(32), 3, label_colors=colors).for_validation(batch(pixels))
    assert annotation.tolist() == [[2, 255]]


def test_settings_of_labels_are_checked():
    with pytest.raises(ValueError, match=r"label_map: class ids are whole numbers in \[0, 65535\], not -1"):
        Settings.of({"model": "x", "label_map": {255: -1}})
    with pytest.raises(ValueError, match="label_colors: a colour is"):
        Settings.of({"model": "x", "label_colors": {7: 1}})
    assert Settings.of({"model": "x", "label_colors": {(0, 0, 0): 1}}).reduce_labels is False
    assert Settings.of({"model": "x"}).reduce_labels is None


def test_masks_of_0_and_255_are_refused_before_the_first_step_and_learnt_as_0_and_1(ray_session, tmp_path):
    for number in range(48):
        image = picture(16, 24, number)
        mask = (image[..., 1] > 90).astype(np.uint8) * 255
        for kind, pixels in (("images", image), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")

    def fit(workers=1, **settings):
        dataset = read_images(str(tmp_path / "images"), annotations=str(tmp_path / "masks"))
        return TorchTrainer(
            train_loop_per_worker,
            train_loop_config={"config": TINY, "size": 32, "epochs": 1, "batch_size": 8, **settings},
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(storage_path=str(tmp_path / "runs")),
            datasets={"train": dataset, "validation": dataset},
        ).fit()

    with pytest.raises(Exception, match=r"annotations hold only 0 and 255.*label_map=\{255: 1\}"):
        fit()
    # The number of images is known here, so that each worker stops to look after some of its 24 rows.
    result = fit(workers=2, label_map={255: 1}, training_images=48)
    assert result.metrics["validation_images"] == 48 and 0 < result.metrics["mean_iou"] <= 1
