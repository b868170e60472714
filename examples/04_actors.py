"""Actors: each loads the model once, and batches are assigned to them in turn. Runs offline, on a laptop.

    python examples/04_actors.py

An actor keeps its state between calls. Scheduling is by hand here, and as simple as possible: in turn. If batches or
workers differ in speed, the fast ones wait for the slow ones: compare with 05_actor_pool.py.
"""

import tempfile
from pathlib import Path

import numpy as np
import ray

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.demo import write_scenes

BATCH_SIZE = 4
WORKERS = 2

folder = Path(tempfile.mkdtemp(prefix="scenes_"))
write_scenes(folder, 24, vary_size=True)
paths = [str(path) for path in sorted((folder / "images").iterdir())]
batches = [paths[start : start + BATCH_SIZE] for start in range(0, len(paths), BATCH_SIZE)]

ray.init(log_to_driver=False)
checkpoint_ref = ray.put(SegformerCheckpoint.demo())

# Any class can become an actor, also the predictor. `remote` takes its constructor's arguments. If its process dies,
# Ray restarts it and retries its calls. Each reserves at most its share of the CPUs, so that all of them can start.
cpus = min(1, ray.cluster_resources()["CPU"] / WORKERS)
Worker = ray.remote(num_cpus=cpus, max_restarts=3, max_task_retries=3)(SegformerPredictor)
workers = [Worker.remote(checkpoint_ref) for _ in range(WORKERS)]

# Two batches per worker are in flight: one is predicted, and the next one waits, so that the worker is never idle.
in_flight, masks = {}, {}


def collect():
    """Wait for one of the batches in flight, and store its masks."""
    (done,), _ = ray.wait(list(in_flight), num_returns=1)
    worker, batch = in_flight.pop(done)
    for path, mask in zip(batch, ray.get(done)["segmentation"], strict=True):
        masks[path] = worker, mask


for turn, batch in enumerate(batches):
    if len(in_flight) == 2 * WORKERS:
        collect()
    worker = turn % WORKERS
    in_flight[workers[worker].predict.remote({"image": np.array(batch, object)})] = worker, batch
while in_flight:
    collect()

for path in paths:
    worker, mask = masks[path]
    print(f"{Path(path).name}: worker {worker}, {mask.shape[1]} x {mask.shape[0]}, {len(np.unique(mask))} classes")
