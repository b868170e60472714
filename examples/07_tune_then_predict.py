"""Ray Tune: train with several settings, and predict with the best model. Runs offline, on a laptop.

    python examples/07_tune_then_predict.py

Small models learn the synthetic scenes from random weights, and ASHA stops the ones that fall behind. `BatchPredictor`
takes the checkpoint of the best one as it is.
"""

import tempfile
from pathlib import Path

import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from ray_segformer import BatchPredictor, SegformerPredictor
from ray_segformer.datasets import read_images
from ray_segformer.demo import CLASSES, write_scenes
from ray_segformer.train import train_in_trial

ray.init(log_to_driver=False)
folder = Path(tempfile.mkdtemp(prefix="tune_"))
datasets = {}
for split, count in (("train", 96), ("validation", 12)):
    write_scenes(folder / split, count, seed=count, height=96, width=128)
    datasets[split] = read_images(str(folder / split / "images"), annotations=str(folder / split / "annotations"))

small = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "id2label": dict(enumerate(CLASSES))}
space = {
    "learning_rate": tune.grid_search([5e-3, 1e-4]),
    "batch_size": tune.choice([4, 8]),
    "config": {**small, "decoder_hidden_size": tune.grid_search([32, 64])},
    "size": (96, 128),
    "epochs": 4,
}
# Two trials at a time take one CPU together. The others are left to Ray Data, which reads the images.
trial = tune.with_resources(tune.with_parameters(train_in_trial, datasets=datasets), {"CPU": 0.5})
asha = ASHAScheduler(max_t=4, grace_period=2, reduction_factor=2)
results = tune.Tuner(
    trial,
    param_space=space,
    tune_config=tune.TuneConfig(metric="mean_iou", mode="max", scheduler=asha, max_concurrent_trials=2),
    run_config=tune.RunConfig(storage_path=str(folder / "runs"), verbose=0),
).fit()
for result in results:
    tried, reached = result.config, result.metrics
    settings = f"learning rate {tried['learning_rate']}, batch size {tried['batch_size']}"
    settings += f", decoder size {tried['config']['decoder_hidden_size']}"
    print(f"{settings}: mean IoU {reached['mean_iou']:.3f} after epoch {reached['epoch']}")

best = results.get_best_result(metric="mean_iou", mode="max")
predictor = BatchPredictor.from_checkpoint(best.checkpoint, SegformerPredictor)
paths = sorted(map(str, (folder / "validation/images").iterdir()))[:4]
masks = predictor.predict(ray.data.from_items([{"image": path, "path": path} for path in paths]), keep_columns=["path"])
for row in masks.iter_rows():
    height, width = row["segmentation"].shape
    print(f"{Path(row['path']).name}: {width} x {height}, {len(np.unique(row['segmentation']))} classes")
