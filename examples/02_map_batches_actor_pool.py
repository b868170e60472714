"""Dataset.map_batches: the predictor in Ray Data's own actor pool. Runs offline, on a laptop.

    python examples/02_map_batches_actor_pool.py

It also computes each image's loss, from annotations, and the mean IoU.
"""

import tempfile
from pathlib import Path

import numpy as np
import ray
from PIL import Image
from ray.data import ActorPoolStrategy

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.demo import CLASSES, write_scenes
from ray_segformer.metrics import confusion_matrix, per_class_iou

folder = Path(tempfile.mkdtemp(prefix="scenes_"))
write_scenes(folder, 12)
rows = [
    {"path": path.name, "image": str(path), "annotation": str(folder / "annotations" / f"{path.stem}.png")}
    for path in sorted((folder / "images").iterdir())
]

# map_batches gets the class and its constructor's arguments. The pool grows from one actor to two if batches queue up.
# Each actor decodes, preprocesses and predicts its own batches. `num_cpus=0.5` leaves CPUs for the tasks that read.
predictions = ray.data.from_items(rows).map_batches(
    SegformerPredictor,
    fn_constructor_args=(SegformerCheckpoint.demo(),),
    fn_constructor_kwargs={"annotation_column": "annotation"},
    compute=ActorPoolStrategy(min_size=1, max_size=2),
    num_cpus=0.5,
    batch_size=4,
)

confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
for row in predictions.iter_rows():  # the other columns of the batch are kept
    annotation = np.asarray(Image.open(row["annotation"]))
    confusion += confusion_matrix(row["segmentation"], annotation, len(CLASSES))
    print(f"{row['path']}: loss {row['loss']:.3f}")

for name, iou in zip(CLASSES, per_class_iou(confusion), strict=True):
    print(f"{name:<10} {iou:.3f}")
print(f"{'mean IoU':<10} {np.nanmean(per_class_iou(confusion)):.3f}")
