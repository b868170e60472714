"""Stateless tasks: each batch is a task, and each task loads the model again. Runs offline, on a laptop.

    python examples/03_stateless_tasks.py

This is the simplest way to use a cluster, but every task pays for loading the model: compare with 04_actors.py. Use it
if the model is small and batches are large, or if there is work only now and then.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.demo import write_scenes

BATCH_SIZE = 4
AT_ONCE = 2  # tasks in flight

folder = Path(tempfile.mkdtemp(prefix="scenes_"))
write_scenes(folder, 24, vary_size=True)
paths = [str(path) for path in sorted((folder / "images").iterdir())]
batches = [paths[start : start + BATCH_SIZE] for start in range(0, len(paths), BATCH_SIZE)]


@ray.remote
def predict(checkpoint, batch):
    """Return class ids of a batch of image files, and the seconds that it took to load the model."""
    started = time.perf_counter()
    predictor = SegformerPredictor(checkpoint)
    seconds = time.perf_counter() - started
    return predictor.predict({"image": np.array(batch, object)})["segmentation"], seconds


ray.init(log_to_driver=False)
# The weights are put in the object store once. All tasks on a node use the same copy.
checkpoint_ref = ray.put(SegformerCheckpoint.demo())

# Limit the tasks in flight: a million at once would fill the driver's memory, and their results the object store.
in_flight, results = {}, {}
for number, batch in enumerate(batches):
    if len(in_flight) == AT_ONCE:
        (done,), _ = ray.wait(list(in_flight), num_returns=1)
        results[in_flight.pop(done)] = ray.get(done)
    in_flight[predict.remote(checkpoint_ref, batch)] = number
for ref, number in in_flight.items():
    results[number] = ray.get(ref)

for number, batch in enumerate(batches):  # tasks end in any order; the number restores it
    masks, seconds = results[number]
    for path, mask in zip(batch, masks, strict=True):
        print(f"{Path(path).name}: {mask.shape[1]} x {mask.shape[0]}, {len(np.unique(mask))} classes")
print(f"{len(batches)} tasks loaded the model {len(results)} times, in {sum(s for _, s in results.values()):.2f} s")
