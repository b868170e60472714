"""Whoever trains: a worker of Ray Train or a trial of Ray Tune, as the training loop sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import ray.tune
import torch
import torch.distributed


class TrainWorker:
    """A worker of Ray Train, as the loop sees it."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.checkpoint = ray.train.get_checkpoint()
        self.shards = {name: ray.train.get_dataset_shard(name) for name in ("train", "validation")}

    def prepare(self, model: Any) -> Any:
        """The model on the device, and its gradients averaged over the workers."""
        return ray.train.torch.prepare_model(model)

    def report(self, metrics: dict[str, Any], directory: str | None) -> None:
        """Report an epoch, and the checkpoint in a directory."""
        ray.train.report(metrics, checkpoint=directory and ray.train.Checkpoint.from_directory(directory))


class TuneTrial:
    """A trial of Ray Tune, as the loop sees it: the only worker."""

    rank, workers = 0, 1

    def __init__(self, datasets: Mapping[str, Any]) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checkpoint = ray.tune.get_checkpoint()
        self.shards = {name: datasets[name].iterator() for name in ("train", "validation")}

    def prepare(self, model: Any) -> Any:
        """The model on the device."""
        return model.to(self.device)

    def report(self, metrics: dict[str, Any], directory: str | None) -> None:
        """Report an epoch, and the checkpoint in a directory."""
        ray.tune.report(metrics, checkpoint=directory and ray.tune.Checkpoint.from_directory(directory))


def sum_over_workers(values: np.ndarray, device: torch.device) -> np.ndarray:
    """The workers' arrays of one shape and dtype, added up."""
    if not torch.distributed.is_initialized():
        return values
    tensor = torch.from_numpy(values.copy()).to(device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy()
