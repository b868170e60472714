"""Measure the way from JPEG files to masks through Ray, with all cores."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import ours, peers
from benchmarks.measure import Contestant, Table, rows, take_turns
from benchmarks.process import Child, Children
from benchmarks.settings import Settings

_BATCH_SIZE = 8
_GUIDE = "transformers in map_batches"
_FAREWELL = 3  # seconds to wait while Ray ends a run's actors in the background
_MODES = (("eager", "float32"), ("compile", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))


def run(settings: Settings) -> list[Table]:
    """Return a table of steady rates, total times, and Ray's cost."""
    # The peers are slow, so they get fewer images.
    theirs = settings.mixed(24 if settings.quick else 32)
    mine = settings.mixed(64 if settings.quick else 256)
    with Children(settings.threads) as children:
        on_ray = children.start(_on_ray, settings.model, settings.threads)
        alone = {
            runtime: children.start(ours.our_predictor, settings.model, runtime, keep_memory=True)
            for runtime in settings.runtimes
        }
        children.wait()
        contestants = _contestants(settings, on_ray, alone, theirs, mine)
        for contestant in contestants:
            if contestant.name.startswith("compile"):  # compile now, once, for the number of threads of an actor
                contestant.run()
        for runtime, dtype in _MODES:
            if runtime in alone:  # as the rates through Ray leave out a worker's first batch
                alone[runtime].seconds(mine[:_BATCH_SIZE], _BATCH_SIZE, dtype)
        samples = take_turns(contestants, settings.rounds(2), warm_up=False)

    table = rows(contestants, {name: [sample["steady"] for sample in samples[name]] for name in samples})
    steady = {row["name"]: row["median"] for row in table}
    for row in table:
        runs = samples[row["name"]]
        row["images"] = runs[0]["images"]
        row |= {key: statistics.median(run[key] for run in runs) for key in ("first", "whole") if key in runs[0]}
        without_ray = _without_ray(row["name"].split(":")[0])
        if without_ray in steady and row["name"] != without_ray:
            row["cost"] = 1 - steady[without_ray] / row["median"]
    notes = [
        f"JPEG files to masks, batches of {_BATCH_SIZE}, on {settings.threads} CPUs. Images/s: after the first "
        "batch of each worker, up to the last batch. Ray Data starts the actors before it reads, so that nothing is "
        "preprocessed in advance while they load.",
        "transformers: one actor, as in Ray's guide. Its torch has one thread, Ray's default; in the second row, all. "
        "In the third row, it has as many actors of one thread as ours.",
        "Ray's cost: how much slower it is than one process without Ray, with the same cores and memory settings.",
        "First and whole: seconds until the first and until the last batch, with the start of the actors.",
    ]
    if not torch.cuda.is_available():
        notes.append("There is no CUDA device, so `ray.data.util.torch_inference.TorchInference` was not run.")
    columns = {
        "name": "",
        "images_per_second": "images/s",
        "ms": "ms/image",
        "ratio": "times the peer's speed",
        "ratio_by_round": "by round",
        "cost": "Ray's cost",
        "images": "images",
        "first": "first, s",
        "whole": "whole, s",
    }
    return [Table("Through Ray, B0", columns, table, notes)]


def _contestants(
    settings: Settings, on_ray: Child, alone: dict[str, Child], theirs: list[str], mine: list[str]
) -> list[Contestant]:
    def by(paths: list[str], function: Callable[..., Any], *options: Any) -> Callable[[], dict[str, float]]:
        return lambda: on_ray(paths, function, *options)

    def in_one_process(runtime: str, dtype: str) -> Callable[[], dict[str, float]]:
        def run() -> dict[str, float]:
            seconds = alone[runtime].seconds(mine, _BATCH_SIZE, dtype)
            return {"images": len(mine), "steady": seconds / len(mine), "whole": seconds}

        return run

    cpus = settings.threads
    contestants = [
        Contestant(_GUIDE, "peer", by(theirs, _by_hand, None), _GUIDE),
        Contestant(f"{_GUIDE}, {cpus} threads", "peer", by(theirs, _by_hand, cpus), _GUIDE),
    ]
    if cpus > 1:
        contestants.append(Contestant(f"{_GUIDE}, {cpus} workers", "peer", by(theirs, _by_hand, 1, cpus), _GUIDE))
    if torch.cuda.is_available():
        inference = by(theirs, _torch_inference)
        contestants.append(Contestant("transformers in TorchInference, on CUDA", "peer", inference, _GUIDE))
        on_cuda = by(mine, _batch_predictor, "auto", "auto", 1, 1)
        contestants.append(Contestant("BatchPredictor, on CUDA", "ours", on_cuda, _GUIDE))
    for runtime, dtype in _MODES:
        if runtime not in settings.runtimes:
            continue
        mode = f"{runtime}, {dtype}"
        contestants.append(Contestant(_without_ray(mode), "ours", in_one_process(runtime, dtype), _GUIDE))
        for workers in sorted({1, cpus} if mode == "eager, float32" else {cpus}):
            name = f"{mode}: BatchPredictor, {workers} worker{'s' * (workers > 1)}"
            contestants.append(Contestant(name, "ours", by(mine, _batch_predictor, runtime, dtype, workers), _GUIDE))
    name = f"eager, float32: map_batches, {cpus} workers"
    contestants.append(Contestant(name, "ours", by(mine, _map_batches, "eager", "float32", cpus), _GUIDE))
    return contestants


def _without_ray(mode: str) -> str:
    return f"{mode}: one process without Ray"


def _on_ray(model: str, cpus: int) -> Callable[..., dict[str, float]]:
    """Start Ray. Return `run(paths, function, *options)`: it consumes the dataset that `function` builds."""
    import ray
    import ray.data  # sets up its logging, which is silenced below

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = 300

    def run(paths: Sequence[str], function: Callable[..., Any], *options: Any) -> dict[str, float]:
        started = time.perf_counter()
        dataset, workers = function(model, list(paths), *options)
        seconds, images = [], []
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):  # each block as soon as it is ready
            seconds.append(time.perf_counter() - started)
            images.append(len(batch["segmentation"]))
        if len(images) <= workers or sum(images) != len(paths):
            raise RuntimeError(
                f"{workers} workers returned {len(images)} blocks with {sum(images)} of {len(paths)} images; "
                "expected all images, in more blocks than workers"
            )
        time.sleep(_FAREWELL)
        steady = (seconds[-1] - seconds[workers - 1]) / sum(images[workers:])
        return {"images": len(paths), "steady": steady, "first": seconds[0], "whole": seconds[-1]}

    return run


def _by_hand(model: str, paths: list[str], threads: int | None, workers: int = 1) -> tuple[Any, int]:
    """Build the dataset as Ray's guide to batch inference does, by default with one actor and Ray's defaults."""
    import ray

    dataset = _images(paths).map_batches(
        peers.ByHand,
        fn_constructor_args=(model, threads),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=_BATCH_SIZE,
        num_cpus=_cpus_for_each(workers) if workers > 1 else None,
    )
    return dataset, workers


def _images(paths: list[str]) -> Any:
    """Read decoded images, in one block for each batch, as Ray would for more files."""
    import ray

    return ray.data.read_images(paths, mode="RGB", include_paths=True, override_num_blocks=len(paths) // _BATCH_SIZE)


def _torch_inference(model: str, paths: list[str]) -> tuple[Any, int]:
    import ray

    dataset = _images(paths).map_batches(
        peers.by_torch_inference(),
        fn_constructor_args=(model,),
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=_BATCH_SIZE,
        num_gpus=1,
    )
    return dataset, 1


def _batch_predictor(
    model: str, paths: list[str], runtime: str, dtype: str, workers: int, gpus: int | None = None
) -> tuple[Any, int]:
    """Run our BatchPredictor on a dataset of paths, as `ray-segformer predict` does."""
    import ray

    from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor

    checkpoint = SegformerCheckpoint.from_pretrained(model)
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, runtime=runtime, dtype=dtype)
    dataset = predictor.predict(
        ray.data.from_items([{"path": path, "image": path} for path in paths]),
        keep_columns=["path"],
        batch_size=_BATCH_SIZE,
        min_scoring_workers=workers,
        max_scoring_workers=workers,
        num_cpus_per_worker=_cpus_for_each(workers),
        num_gpus_per_worker=gpus,
    )
    return dataset, workers


def _map_batches(model: str, paths: list[str], runtime: str, dtype: str, workers: int) -> tuple[Any, int]:
    """Run our predictor in `map_batches`, as `_by_hand` runs the peer."""
    import ray

    from ray_segformer import SegformerCheckpoint, SegformerPredictor

    dataset = _images(paths).map_batches(
        SegformerPredictor,
        fn_constructor_args=(SegformerCheckpoint.from_pretrained(model),),
        fn_constructor_kwargs={"runtime": runtime, "dtype": dtype},
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=_BATCH_SIZE,
        num_cpus=_cpus_for_each(workers),
    )
    return dataset, workers


def _cpus_for_each(workers: int) -> float:
    """Return the CPUs that each worker reserves, so that one CPU is left to read."""
    import ray

    return min(1, (ray.cluster_resources()["CPU"] - 1) / workers)
