"""The same work in six architectures. Each is one function in a short file, to read, run and compare.

    from ray_segformer import SegformerCheckpoint, architectures

    masks, timeline = architectures.actor_pool(paths, SegformerCheckpoint.demo(), workers=2, batch_size=4)

| function | who predicts | who gets the next batch |
|---|---|---|
| `sequential` | this process | |
| `tasks` | one task per batch, which loads the model | any free process |
| `actors` | actors | each actor in turn |
| `actor_pool` | actors | the next free actor (`ray.util.ActorPool`) |
| `dataset` | an autoscaled pool of actors | the next free actor (Ray Data) |
| `batch_predictor` | the same pool; separate tasks preprocess | the next free actor (Ray Data) |

All functions return the same masks. They use a `TimedPredictor`, a `SegformerPredictor` that records events for the
timeline. Replace it by `SegformerPredictor` to get the plain pattern. All have the same signature:

Args:
    images: image cells (see `ray_segformer.images`): paths, encoded bytes, arrays.
    checkpoint: a `SegformerCheckpoint`, or any Ray checkpoint that holds a SegFormer.
    workers: how many processes predict at the same time, at most; 2 by default. `sequential` ignores it.
    batch_size: images in a batch; 4 by default.
    num_cpus: CPUs that a worker reserves. The default, None, is one CPU, or less if the cluster has too few. Not for
        `sequential`.
    num_gpus: GPUs that a worker reserves; 0 by default. Not for `sequential`.
    options: options of `SegformerPredictor`, such as `runtime` or `on_error`, or the `slow_worker` of `TimedPredictor`.

Returns:
    A `Run`: the masks in the order of the images, and the timeline.

Raises:
    ValueError: there are no images, or `workers` or `batch_size` is below 1.
    RuntimeError: an image was predicted several times, or never.
    ImageError: an image cannot be read, and `on_error` is "raise". Ray may wrap it.
"""

from ray_segformer.architectures._actor_pool import actor_pool
from ray_segformer.architectures._actors import actors
from ray_segformer.architectures._batch_predictor import batch_predictor
from ray_segformer.architectures._dataset import dataset
from ray_segformer.architectures._sequential import sequential
from ray_segformer.architectures._tasks import tasks
from ray_segformer.architectures._timed import Run, SlowWorker, TimedPredictor, worker_resources
from ray_segformer.architectures._timeline import Event, Timeline

ARCHITECTURES = {
    function.__name__: function for function in (sequential, tasks, actors, actor_pool, dataset, batch_predictor)
}
"""The six functions by their names."""

__all__ = [
    "ARCHITECTURES",
    "Event",
    "Run",
    "SlowWorker",
    "TimedPredictor",
    "Timeline",
    "actor_pool",
    "actors",
    "batch_predictor",
    "dataset",
    "sequential",
    "tasks",
    "worker_resources",
]
