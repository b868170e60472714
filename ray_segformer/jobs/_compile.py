"""Compiling the network on each machine while the workers of a job are at work in eager mode."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_segformer.checkpoint import SegformerCheckpoint

logger = logging.getLogger(__name__)

# So many images, divided among all workers, take longer in eager mode than compiling and loading the program.
_WORTH_COMPILING = 1500  # for each worker


def compile_ahead(
    checkpoint: SegformerCheckpoint, size: tuple[int, int] | None, images: float, workers: int, **options: Any
) -> None:
    """Start a task on each machine that compiles the network, if the job is long enough for that to pay.

    The task has the lowest priority. It returns at once if the machine has the program. Workers with `runtime="auto"`
    take the program when it is there; see `ray_segformer.network`. They go on as they are if a task fails.

    Args:
        checkpoint: the model.
        size: height and width of what the network is shown. None if images differ: nothing is compiled then.
        images: the number of images of the job; infinite if it is not known yet, and large.
        workers: the most workers.
        options: those of `SegformerContent.make_runtime`, except `runtime`.
    """
    if size is None or images < _WORTH_COMPILING * workers:
        return
    # max_calls: the process has a low priority, and must not be used for other tasks.
    # max_retries: where memory is short, Ray first ends what it can start again.
    task = ray.remote(num_cpus=0, max_retries=1, max_calls=1)(_compile)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if node["Alive"] and node["Resources"].get("CPU"):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task.options(scheduling_strategy=here).remote(checkpoint, size, options)


def _compile(checkpoint: SegformerCheckpoint, size: tuple[int, int], options: dict[str, Any]) -> None:
    import torch

    if hasattr(os, "nice"):
        os.nice(19)
    torch.set_num_threads(1)  # as in a worker, which reserves at most one CPU
    try:
        checkpoint.content.make_runtime(runtime="compile", **options)(torch.zeros(1, 3, *size))
    except (OSError, RuntimeError) as error:  # such as no compiler, or no folder for programs
        logger.info("%s", error)
