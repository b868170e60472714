"""The same work in six architectures, each a function in a short file of its own, to read, run and compare.

    from ray_segformer import SegformerCheckpoint, architectures

    masks, timeline = architectures.actor_pool(paths, SegformerCheckpoint.demo(), workers=2, batch_size=4)

All have the signature `(images, checkpoint, *, workers, batch_size, ...)` and return the same masks, in the order of
the images, with a `Timeline` of who did what when. A `TimedPredictor` is a `SegformerPredictor` that notes its times:
replace the one by the other, and what is left is the pattern.

| function | who predicts | who gets the next batch |
|---|---|---|
| `sequential` | this process | |
| `tasks` | a task for each batch, which loads the model | whatever process is free |
| `actors` | actors | each in turn |
| `actor_pool` | actors | whoever is free (`ray.util.ActorPool`) |
| `dataset` | actors, as many as the work asks for | whoever is free (Ray Data) |
| `batch_predictor` | the same; images are preprocessed apart, in tasks | whoever is free (Ray Data) |
"""

from ray_segformer.architectures.actor_pool import actor_pool
from ray_segformer.architectures.actors import actors
from ray_segformer.architectures.batch_predictor import batch_predictor
from ray_segformer.architectures.dataset import dataset
from ray_segformer.architectures.sequential import sequential
from ray_segformer.architectures.tasks import tasks
from ray_segformer.architectures.timed import Run, SlowWorker, TimedPredictor, worker_resources
from ray_segformer.architectures.timeline import Event, Timeline

ARCHITECTURES = {
    function.__name__: function for function in (sequential, tasks, actors, actor_pool, dataset, batch_predictor)
}

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
