"""Long jobs, which compile the network while their workers are at work."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image
from reference import picture, save_small, small_model

from ray_segformer import SegformerCheckpoint
from ray_segformer.jobs import _compile
from ray_segformer.predict import predict

pytestmark = pytest.mark.usefixtures("ray_session", "one_thread")


def test_a_long_job_compiles_what_its_workers_take(tmp_path, monkeypatch):
    # A model of its own: programs are in a cache that all tests share. It has one stage, which takes half as long.
    lists = {"depths": [1], "hidden_sizes": [16], "num_attention_heads": [1], "sr_ratios": [8], "mlp_ratios": [4]}
    model = small_model(seed=3, num_encoder_blocks=1, patch_sizes=[7], strides=[4], **lists)
    directory = save_small(tmp_path / "model", model)
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(3):
        Image.fromarray(picture(50, 70, seed)).save(images / f"{seed}.png")
    checkpoint = SegformerCheckpoint.from_pretrained(directory)
    compiled = checkpoint.content.make_runtime(runtime="compile")
    assert not compiled.is_compiled(64, 96)

    monkeypatch.setattr(_compile, "_WORTH_COMPILING", 2)
    summary = predict(str(images), str(tmp_path / "out"), checkpoint, workers=1, progress=False)
    assert (summary["images"], summary["failures"]) == (3, 0)
    for _ in range(6000):  # ten minutes
        if compiled.is_compiled(64, 96):
            break
        time.sleep(0.1)

    monkeypatch.setenv("CXX", "/nowhere/g++")  # so that nothing is compiled here
    pixels = torch.linspace(-2, 2, 3 * 64 * 96).reshape(1, 3, 64, 96)
    logits, eager = compiled(pixels), checkpoint.content.make_runtime(runtime="eager")(pixels)
    np.testing.assert_allclose(logits, eager, atol=1e-5 * float(eager.abs().max()))
