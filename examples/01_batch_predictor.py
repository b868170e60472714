"""BatchPredictor: from a dataset of photos to a dataset of masks. Runs offline, on a laptop.

    python examples/01_batch_predictor.py [FOLDER]

Without FOLDER it segments synthetic scenes with the packaged model. For your own photos, use a model that was trained
on photos: `SegformerCheckpoint.from_pretrained("nvidia/segformer-b0-finetuned-ade-512-512")`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.datasets import read_images
from ray_segformer.demo import write_scenes

if len(sys.argv) > 1:
    folder = Path(sys.argv[1])
else:
    folder = Path(tempfile.mkdtemp(prefix="scenes_"), "images")
    write_scenes(folder.parent, 12, vary_size=True)

# A dataset of files: CPU tasks read, decode and preprocess the images.
photos = read_images(folder)

# The checkpoint is read once, here; its weights reach the scoring actors through Ray's object store.
checkpoint = SegformerCheckpoint.demo()
predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, on_error="keep")

# `predict` is lazy: nothing runs until the masks are consumed. On a GPU cluster, add num_gpus_per_worker=1.
masks = predictor.predict(photos, batch_size=4, max_scoring_workers=2, keep_columns=["path"])

for row in masks.iter_rows():
    name = Path(row["path"]).name
    if row["error"]:
        print(f"{name}: {row['error']}")
        continue
    segmentation = row["segmentation"]  # (height, width) uint8 class ids, at the photo's own size
    shares = np.bincount(segmentation.ravel(), minlength=len(checkpoint.id2label)) / segmentation.size
    largest = ", ".join(f"{checkpoint.id2label[i]} {shares[i]:.0%}" for i in np.argsort(-shares)[:3])
    print(f"{name}: {segmentation.shape[1]} x {segmentation.shape[0]}, {largest}")
