"""The architectures measured side by side: the same images, each in a process, and on a Ray, of its own."""

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

# A folder of thumbnails, pictures from the web, and a camera's: the longer side in pixels, and how many there are of
# each.
_UNEVEN_SIZES = ((160, 0.4), (800, 0.4), (4000, 0.2))
_SLOWNESS = 3.0  # of the one slow worker


@dataclass(frozen=True)
class Settings:
    """How the architectures are run.

    Attributes:
        workers: for each but `sequential`.
        batch_size: images predicted at once.
        gpus_per_worker: GPUs that each worker reserves.
        one_slow_worker: whether one of the workers, the first, takes three times as long as it could.
        max_pixels: a larger image is an error; see `SegformerPreprocessor`.
    """

    workers: int = 2
    batch_size: int = 4
    gpus_per_worker: float = 0
    one_slow_worker: bool = False
    max_pixels: int = MAX_PIXELS


def compare(
    images: Sequence[Any],
    checkpoint: Any,
    architectures: Sequence[str],
    settings: Settings,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    """Run architectures one after another, each in a fresh process and, but for `sequential`, as a fresh job of Ray.

    Starting the process and Ray does not count; whatever an architecture does from its call to its last mask does.

    Args:
        images: image cells.
        checkpoint: a `SegformerCheckpoint`.
        architectures: names out of `ray_segformer.architectures.ARCHITECTURES`.
        progress: called with the name of each, before it is run.

    Returns:
        By name, what was measured (see `measure`), with `different_pixels`, which are not the same as in the masks of
        the first one, of `pixels`; or `error`, why it failed. And the masks of the first one that did not.
    """
    results: dict[str, dict[str, Any]] = {}
    expected: list[Any] = []
    for name in architectures:
        progress(name)
        # Not forked: Ray and torch do not survive it, and a fresh process has nothing imported and nothing cached.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                result, masks = process.submit(measure, name, images, checkpoint, settings).result()
            except Exception as error:
                results[name] = {"error": f"{type(error).__name__}: {error}"}
                continue
        expected = expected or masks
        result["pixels"] = sum(mask.size for mask in expected)
        result["different_pixels"] = sum(int((one != other).sum()) for one, other in zip(masks, expected, strict=True))
        results[name] = result
    return results, expected


def measure(name: str, images: Sequence[Any], checkpoint: Any, settings: Settings) -> tuple[dict[str, Any], list[Any]]:
    """Run one architecture in this process, which should be fresh, and measure it.

    Returns:
        `seconds`, `images_per_second`, `seconds_to_first_mask`, `loads` (of the model), `load_seconds`, `workers`,
        `busy_share` (see `Timeline`), `peak_memory_mb` (see `PeakMemory`), `timeline`, and the `nodes`, `cpus` and
        `gpus` that there were. And the masks.
    """
    from ray_segformer.architectures import ARCHITECTURES
    from ray_segformer.comparison.machine import PeakMemory

    options: dict[str, Any] = {"max_pixels": settings.max_pixels}
    there: dict[str, Any] = {"nodes": 1, "cpus": os.cpu_count(), "gpus": 0}
    if name != "sequential":
        on_ray, there = _on_ray(settings)
        options |= on_ray
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
        **there,
        "timeline": timeline.to_dict(),
    }, masks


def _on_ray(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Start Ray; the further arguments of an architecture there, and what there is."""
    import ray

    from ray_segformer.architectures import SlowWorker
    from ray_segformer.jobs import start_ray

    start_ray()
    options: dict[str, Any] = {"num_gpus": settings.gpus_per_worker}
    if settings.one_slow_worker:
        options["slow_worker"] = ray.remote(SlowWorker).options(num_cpus=0).remote(_SLOWNESS)
    resources = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return options, {"nodes": nodes, "cpus": int(resources.get("CPU", 0)), "gpus": int(resources.get("GPU", 0))}


def uneven(images: Sequence[Any], max_pixels: int = MAX_PIXELS, seed: int = 0) -> list[bytes]:
    """The images at very different sizes, as JPEG: 160, 800 or 4000 pixels on their longer side, in random order."""
    sides, shares = zip(*_UNEVEN_SIZES, strict=True)
    random = np.random.default_rng(seed)
    encoded = []
    for cell in images:
        image = Image.fromarray(to_rgb(cell, max_pixels))
        scale = random.choice(sides, p=shares) / max(image.size)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        encoded.append(encode(image.resize(size), "JPEG", quality=85))
    return encoded
