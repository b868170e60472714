"""The measurement of the architectures: on the same images, each in its own process and its own Ray session."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ray_segformer.images import MAX_PIXELS, encode, to_rgb
from ray_segformer.protocol import PLAIN, Protocol

# Sizes of thumbnails, of pictures from the web and of photos: the longer side in pixels, and the share of each size.
_UNEVEN_SIZES = ((160, 0.4), (800, 0.4), (4000, 0.2))
_SLOWNESS = 3.0  # of the slow worker


@dataclass(frozen=True)
class Settings:
    """The settings of all runs.

    Attributes:
        workers: the number of workers, except in `sequential`.
        batch_size: images in a batch.
        gpus_per_worker: GPUs that each worker reserves.
        one_slow_worker: whether the first worker is made three times slower.
        max_pixels: an image with more pixels is an error; see `SegformerPreprocessor`.
        protocol: how images are shown to the network.
    """

    workers: int = 2
    batch_size: int = 4
    gpus_per_worker: float = 0
    one_slow_worker: bool = False
    max_pixels: int = MAX_PIXELS
    protocol: Protocol = PLAIN


def compare(
    images: Sequence[Any],
    checkpoint: Any,
    architectures: Sequence[str],
    settings: Settings,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    """Run architectures one after another, each in a new process and, except `sequential`, in a new Ray session.

    The measured time goes from the call of the architecture to its last mask. Starting the process and Ray is not
    included.

    Args:
        images: image cells (see `ray_segformer.images`).
        checkpoint: a `SegformerCheckpoint`.
        architectures: names from `ray_segformer.architectures.ARCHITECTURES`.
        settings: the settings of all runs.
        progress: called with the name of each architecture before its run.

    Returns:
        The results by name, and the masks of the first run that did not fail. A result has the measurements (see
        `measure`), the number of `pixels`, and `different_pixels`, how many differ from those masks. The result of a
        failed run has only `error`, a sentence.
    """
    from ray_segformer.jobs import explain

    results: dict[str, dict[str, Any]] = {}
    expected: list[Any] = []
    for name in architectures:
        progress(name)
        # Not forked, because Ray and torch do not work after a fork. A new process has no imports and no caches.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                result, masks = process.submit(_measure_or_say_why, name, images, checkpoint, settings).result()
            except Exception as error:  # such as of a process that was killed
                result = {"error": explain(error)}
        if "error" in result:
            results[name] = result
            continue
        expected = expected or masks
        result["pixels"] = sum(mask.size for mask in expected)
        result["different_pixels"] = sum(int((one != other).sum()) for one, other in zip(masks, expected, strict=True))
        results[name] = result
    return results, expected


def measure(name: str, images: Sequence[Any], checkpoint: Any, settings: Settings) -> tuple[dict[str, Any], list[Any]]:
    """Run one architecture in this process, which should be new, and measure it.

    Returns:
        The measurements and the masks. The measurements are `seconds`, `images_per_second`, `seconds_to_first_mask`,
        `loads` (of the model), `load_seconds`, `workers`, `busy_share` (see `Timeline`), `peak_memory_mb` (see
        `PeakMemory`), `timeline`, and the `nodes`, `cpus` and `gpus` that were available.
    """
    from ray_segformer.architectures import ARCHITECTURES
    from ray_segformer.comparison._machine import PeakMemory

    options: dict[str, Any] = {"max_pixels": settings.max_pixels, **settings.protocol.options()}
    available: dict[str, Any] = {"nodes": 1, "cpus": os.cpu_count(), "gpus": 0}
    if name != "sequential":
        ray_options, available = _start_ray(settings)
        options |= ray_options
    with PeakMemory() as memory:
        masks, timeline = ARCHITECTURES[name](
            images, checkpoint, workers=settings.workers, batch_size=settings.batch_size, **options
        )
    return {
        "seconds": timeline.seconds,
        "images_per_second": len(images) / timeline.seconds,
        "seconds_to_first_mask": timeline.seconds_to_first_mask,
        "loads": timeline.loads,
        "load_seconds": timeline.load_seconds,
        "workers": len(timeline.workers),
        "busy_share": timeline.busy_share,
        "peak_memory_mb": memory.peak / 1e6,
        **available,
        "timeline": timeline.to_dict(),
    }, masks


def _measure_or_say_why(
    name: str, images: Sequence[Any], checkpoint: Any, settings: Settings
) -> tuple[dict[str, Any], list[Any]]:
    """Return what `measure` does, or why it failed: the exceptions of Ray cannot be pickled, to leave the process."""
    from ray_segformer.jobs import explain

    try:
        return measure(name, images, checkpoint, settings)
    except Exception as error:
        return {"error": explain(error)}, []


def _start_ray(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start Ray. Return the architecture's arguments for Ray, and the available nodes, CPUs and GPUs."""
    import ray

    from ray_segformer.architectures import SlowWorker
    from ray_segformer.jobs import check_gpus, check_nodes, start_ray

    start_ray()
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    check_gpus(settings.gpus_per_worker, resources)
    check_nodes(None, None, with_gpus=settings.gpus_per_worker > 0)
    options: dict[str, Any] = {"num_gpus": settings.gpus_per_worker}
    if settings.one_slow_worker:
        options["slow_worker"] = ray.remote(SlowWorker).options(num_cpus=0).remote(_SLOWNESS)
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    return options, {"nodes": nodes, "cpus": int(resources.get("CPU", 0)), "gpus": int(resources.get("GPU", 0))}


def uneven(images: Sequence[Any], max_pixels: int = MAX_PIXELS, seed: int = 0) -> list[bytes]:
    """Resize each image at random, to 160, 800 or 4000 pixels on its longer side, and encode it as JPEG."""
    sides, shares = zip(*_UNEVEN_SIZES, strict=True)
    random = np.random.default_rng(seed)
    encoded = []
    for cell in images:
        image = Image.fromarray(to_rgb(cell, max_pixels))
        scale = random.choice(sides, p=shares) / max(image.size)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        encoded.append(encode(image.resize(size), "JPEG", quality=85))
    return encoded
