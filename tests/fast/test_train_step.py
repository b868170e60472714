"""Steps and epochs of a training, one after the other, against a loop of torch and transformers."""

from __future__ import annotations

import copy
import math
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray.train import Checkpoint
from reference import encode, picture, small_model, small_processor
from safetensors.torch import load_file

from ray_segformer import SegformerPreprocessor
from ray_segformer.training._loop import _train, train_step
from ray_segformer.training._settings import Settings


def test_each_step_has_gradients_and_a_rate_of_its_own():
    model = small_model(drop_path_rate=0.0, classifier_dropout_prob=0.0)
    expected, processor = copy.deepcopy(model).train(), small_processor()
    pixels = torch.randint(0, 256, (3, 2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 3, 6, 255], (3, 2, 64, 96)))
    preprocessor = SegformerPreprocessor.from_config(processor.to_dict())
    optimizers = [torch.optim.SGD(each.parameters(), lr=9.0) for each in (model, expected)]
    mean, std = (torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
    for step, rate in enumerate((1e-3, 5e-4, 2e-3)):
        batch = {"pixel_values": pixels[step], "labels": labels[step]}
        found = train_step(model, optimizers[0], preprocessor, batch, rate, False)
        optimizers[1].param_groups[0]["lr"] = rate
        optimizers[1].zero_grad()
        loss = expected(pixel_values=(pixels[step] / 255 - mean) / std, labels=labels[step]).loss
        loss.backward()
        optimizers[1].step()
        assert abs(found - loss.item()) < 1e-4
    for name, weights in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weights, rtol=1e-3, atol=1e-5, msg=name)


class Rows:
    """Images and their annotations, as a worker's shard of a dataset, in batches of their order."""

    def __init__(self, *annotations):
        self.table = pa.table(
            {
                "path": [f"{number}.png" for number in range(len(annotations))],
                "image": [encode(picture(*ids.shape, seed)) for seed, ids in enumerate(annotations)],
                "annotation": [encode(ids) for ids in annotations],
            }
        )

    def iter_batches(self, *, batch_size, batch_format="numpy"):
        if batch_format == "pyarrow":
            return iter([self.table])
        return (_columns(self.table.slice(first, batch_size)) for first in range(0, len(self.table), batch_size))

    def iter_torch_batches(self, *, batch_size, collate_fn, **_):
        return map(collate_fn, self.iter_batches(batch_size=batch_size))


def _columns(table):
    return {name: np.array(table[name].to_pylist(), object) for name in table.column_names}


class Alone:
    """A worker of a training that runs in this process, without Ray. It keeps the reports and the checkpoints."""

    rank, workers, device = 0, 1, torch.device("cpu")

    def __init__(self, folder, rows, checkpoint=None):
        self._folder, self.checkpoint = folder, checkpoint and Checkpoint.from_directory(str(checkpoint))
        self.shards = {"train": rows, "validation": rows}
        self.metrics, self.directories = [], []

    def prepare(self, model):
        return model

    def report(self, metrics, directory):
        self.metrics.append(metrics)
        self.directories.append(shutil.copytree(directory, self._folder / f"epoch_{metrics['epoch']}"))


def trained(folder, rows, *, checkpoint=None, **settings):
    worker = Alone(folder, rows, checkpoint)
    config = small_model().config.to_dict()
    _train(Settings.of({"config": config, "size": 32, "augment": False, "batch_size": 1, **settings}), worker)
    return worker


def still(**changes):
    """The configuration of a model without dropout."""
    return small_model(drop_path_rate=0.0, classifier_dropout_prob=0.0, **changes).config.to_dict()


IDS = np.random.default_rng(0).integers(0, 7, (2, 32, 32), np.uint8)


def test_each_epoch_has_dropout_of_its_own(tmp_path):
    """With a learning rate of 0 and one image, losses differ by dropout alone."""
    rows, settings = Rows(IDS[0]), {"epochs": 2, "learning_rate": 0.0, "weight_decay": 0.0}
    first, again, without = (
        [metrics["loss"] for metrics in trained(tmp_path / str(number), rows, **settings, **more).metrics]
        for number, more in enumerate([{}, {}, {"config": still()}])
    )
    assert first == again and first[0] != first[1]
    assert without[0] == pytest.approx(without[1], rel=1e-6)


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps_with_annotated_pixels(tmp_path):
    nothing = np.full_like(IDS[0], 255)
    settings = {"epochs": 1, "learning_rate": 0.0, "weight_decay": 0.0, "config": still()}
    both = trained(tmp_path / "both", Rows(IDS[0], IDS[1]), **settings).metrics[0]["loss"]
    some = trained(tmp_path / "some", Rows(IDS[0], IDS[1], nothing, nothing), **settings).metrics[0]["loss"]
    assert math.isfinite(both) and some == pytest.approx(both, rel=1e-6)


def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    """With dropout. `weight_decay` may be another: AdamW takes rate * decay of the weights, apart from its moments."""
    rows, settings = Rows(IDS[0]), {"epochs": 2, "learning_rate": 0.01}
    whole = trained(tmp_path / "whole", rows, **settings)
    resumed, decayed = (
        trained(tmp_path / str(decay), rows, checkpoint=whole.directories[0], weight_decay=decay, **settings)
        for decay in (0.01, 2.0)
    )
    assert resumed.metrics == whole.metrics[1:]
    directories = (*whole.directories, *resumed.directories, *decayed.directories)
    before, expected, same, other = (load_file(directory / "model.safetensors") for directory in directories)
    rate = whole.metrics[1]["learning_rate"]  # of the only step since
    for name in before:
        assert torch.equal(same[name], expected[name]), name
        if any(word in name for word in ("running_", "num_batches")):
            continue  # statistics, no parameters
        torch.testing.assert_close(expected[name] - other[name], before[name] * rate * 1.99, rtol=1e-3, atol=1e-6)
