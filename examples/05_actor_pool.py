"""ray.util.ActorPool: the next batch goes to a free actor. Runs offline, on a laptop.

    python examples/05_actor_pool.py

The pool keeps track of what is in flight, and no worker waits for a slow one. Reading, batching, order and memory are
still managed by hand; Ray Data and BatchPredictor do that for you (01 and 02).
"""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import ray
from ray.util import ActorPool

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.demo import write_scenes

BATCH_SIZE = 4
WORKERS = 2

folder = Path(tempfile.mkdtemp(prefix="scenes_"))
write_scenes(folder, 24, vary_size=True)
paths = [str(path) for path in sorted((folder / "images").iterdir())]
batches = [paths[start : start + BATCH_SIZE] for start in range(0, len(paths), BATCH_SIZE)]


class Worker:
    """A predictor that returns paths with the masks, because results come in any order."""

    def __init__(self, checkpoint):
        self.predictor = SegformerPredictor(checkpoint)
        self.name = ray.get_runtime_context().get_actor_id()

    def predict(self, batch):
        """Return the worker's name, and class ids by path."""
        predictions = self.predictor.predict({"image": np.array(batch, object)})
        return self.name, dict(zip(batch, predictions["segmentation"], strict=True))


ray.init(log_to_driver=False)
checkpoint_ref = ray.put(SegformerCheckpoint.demo())
cpus = min(1, ray.cluster_resources()["CPU"] / WORKERS)
Actor = ray.remote(num_cpus=cpus, max_restarts=3, max_task_retries=3)(Worker)
pool = ActorPool([Actor.remote(checkpoint_ref) for _ in range(WORKERS)])

masks, share = {}, Counter()
for name, results in pool.map_unordered(lambda actor, batch: actor.predict.remote(batch), batches):
    masks.update(results)
    share[name] += 1

for path in paths:
    mask = masks[path]
    print(f"{Path(path).name}: {mask.shape[1]} x {mask.shape[0]}, {len(np.unique(mask))} classes")
for number, batches_done in enumerate(share.values(), 1):
    print(f"worker {number} predicted {batches_done} of {len(batches)} batches")
