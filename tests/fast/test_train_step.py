"""Steps of a training, one after the other, against a loop of torch and transformers."""

from __future__ import annotations

import copy

import numpy as np
import torch
from reference import small_model, small_processor

from ray_segformer import SegformerPreprocessor
from ray_segformer.training._loop import train_step


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
