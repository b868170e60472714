"""The worker that runs the training loop. Workers of Ray Train and trials of Ray Tune have the same interface here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import ray.train
import ray.train.torch
import ray.tune
import torch
import torch.distributed


class TrainWorker:
    """A worker of Ray Train.

    Attributes:
        rank: the worker's number, from 0.
        workers: the number of workers.
        device: the torch device to train on.
        checkpoint: the checkpoint to resume from, or None.
        shards: the worker's shards of the datasets "train" and "validation".
    """

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.checkpoint = ray.train.get_checkpoint()
        try:
            self.shards = {name: ray.train.get_dataset_shard(name) for name in ("train", "validation")}
        except KeyError as error:
            raise ValueError(f"the trainer's datasets are 'train' and 'validation': {error.args[0]}") from error

    def prepare(self, model: Any) -> Any:
        """Return the model on the device. Its gradients are averaged over the workers."""
        return ray.train.torch.prepare_model(model)

    def report(self, metrics: dict[str, Any], directory: str | None) -> None:
        """Report an epoch, with the checkpoint in a directory, if given."""
        ray.train.report(metrics, checkpoint=directory and ray.train.Checkpoint.from_directory(directory))


class TuneTrial:
    """A trial of Ray Tune: one process, which is the only worker. It has the attributes of `TrainWorker`."""

    rank, workers = 0, 1

    def __init__(self, datasets: Mapping[str, Any]) -> None:
        if not {"train", "validation"} <= {*datasets}:
            raise ValueError(f"datasets needs 'train' and 'validation', and has {sorted(datasets)}")
        if ray.tune.get_context().get_trial_id() is None:
            raise RuntimeError(
                "train_in_trial is for the trials of a Tuner, but this process is not one; pass it to ray.tune.Tuner"
            )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checkpoint = ray.tune.get_checkpoint()
        self.shards = {name: datasets[name].iterator() for name in ("train", "validation")}

    def prepare(self, model: Any) -> Any:
        """Return the model on the device."""
        return model.to(self.device)

    def report(self, metrics: dict[str, Any], directory: str | None) -> None:
        """Report an epoch, with the checkpoint in a directory, if given."""
        ray.tune.report(metrics, checkpoint=directory and ray.tune.Checkpoint.from_directory(directory))


def sum_over_workers(values: npt.NDArray[Any], device: torch.device) -> npt.NDArray[Any]:
    """Return the sum of an array over all workers, which call this with the same shape and dtype."""
    if not torch.distributed.is_initialized():
        return values
    tensor = torch.from_numpy(values.copy()).to(device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy()
