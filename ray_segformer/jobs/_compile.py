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
    checkpoint: SegformerCheckpoint,
    size: tuple[int, int] | None,
    images: float,
    workers: int,
    totals: Any,
    **options: Any,
) -> None:
    """Let each machine compile the network in a task, if the job is long enough for that to pay.

    The task starts when the first images are decoded, because until then the job's workers need the CPUs to start. It
    has the lowest priority, and returns at once if the machine has the program. Workers with `runtime="auto"` take the
    program when it is there; see `ray_segformer.network`. They go on as they are if a task fails.

    Args:
        checkpoint: the model.
        size: height and width of what the network is shown. None if images differ: nothing is compiled then.
        images: the number of images of the job; infinite if it is not known yet, and large.
        workers: the most workers.
        totals: the `StageTotals` actor of the job.
        options: those of `SegformerContent.make_runtime`, except `runtime`.
    """
    if size is None or images < _WORTH_COMPILING * workers:
        return
    # max_calls: the process has a low priority, and must not be used for other tasks.
    # max_retries: where memory is short, Ray first ends what it can start again.
    task = ray.remote(num_cpus=0, max_retries=1, max_calls=1)(_compile)
    decoded = totals.wait_for_images.remote(totals.number.remote())
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if node["Alive"] and node["Resources"].get("CPU"):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task.options(scheduling_strategy=here).remote(checkpoint, size, options, decoded)


def _compile(checkpoint: SegformerCheckpoint, size: tuple[int, int], options: dict[str, Any], decoded: None) -> None:
    """Compile the network. Ray starts the task when its arguments are there; `decoded` is only to be waited for."""
    import torch

    if hasattr(os, "nice"):
        os.nice(19)
    torch.set_num_threads(1)  # as in a worker, which reserves at most one CPU
    try:
        checkpoint.content.make_runtime(runtime="compile", **options)(torch.zeros(1, 3, *size))
    except (OSError, RuntimeError) as error:  # such as no compiler, or no folder for programs
        logger.info("%s", error)
