"""Ray Train: fine-tune a checkpoint on your own images, and predict with the result. Runs offline, on a laptop.

    python examples/06_finetune.py

The packaged model learns to tell nature from what people made. Its classifier for eight classes is replaced by a new
one for two. To use more workers, change only the ScalingConfig.
"""

import tempfile
from pathlib import Path

import numpy as np
import ray
from PIL import Image
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.datasets import read_images
from ray_segformer.demo import CLASSES, write_scenes
from ray_segformer.train import EveryRowOfValidation, train_loop_per_worker
from ray_segformer.viz import draw_curves

ray.init(log_to_driver=False)
folder = Path(tempfile.mkdtemp(prefix="finetune_"))
made = np.isin(CLASSES, ["road", "building", "car"]).astype(np.uint8)
datasets = {}
for split, count in (("train", 48), ("validation", 12)):
    write_scenes(folder / split, count, seed=len(datasets) * 1000, height=192, width=256)
    for path in (folder / split / "annotations").iterdir():
        Image.fromarray(made[np.asarray(Image.open(path))]).save(path)
    # Encoded files stream to the workers, which decode and augment them; an unreadable one is named by its `path`.
    datasets[split] = read_images(str(folder / split / "images"), annotations=str(folder / split / "annotations"))

trainer = TorchTrainer(
    train_loop_per_worker,
    train_loop_config={
        "model": SegformerCheckpoint.demo(),
        "id2label": {0: "nature", 1: "made by people"},
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 4e-4,
        "size": (192, 256),
    },
    scaling_config=ScalingConfig(num_workers=1),
    # If a worker dies, the run continues from the last epoch's checkpoint.
    run_config=RunConfig(storage_path=str(folder / "runs"), failure_config=FailureConfig(max_failures=1)),
    datasets=datasets,
    dataset_config=EveryRowOfValidation(),
)
checkpoint = SegformerCheckpoint.from_checkpoint(trainer.fit().checkpoint)
for epoch in checkpoint.content.training["history"]:
    print(f"epoch {epoch['epoch']}: loss {epoch['loss']:.3f}, mean IoU {epoch['mean_iou']:.3f}")
draw_curves(checkpoint.content.training).save(folder / "curves.png")  # the checkpoint's folder has it, too
print(f"curves: {folder / 'curves.png'}")

scene = np.asarray(Image.open(sorted((folder / "validation/images").iterdir())[0]))
(mask,) = SegformerPredictor.from_checkpoint(checkpoint).predict({"image": scene[None]})["segmentation"]
print(f"scene: {mask.shape[1]} x {mask.shape[0]}, {(mask == 1).mean():.0%} {checkpoint.id2label[1]}")
