"""Checkpoints that travel through Ray."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle
from reference import Reference, assert_same_model, small_processor

from ray_segformer import SegformerCheckpoint, SegformerPreprocessor

pytestmark = pytest.mark.usefixtures("ray_session")

WEIGHTS = "model.safetensors"


@pytest.fixture
def own_dir(small_dir, tmp_path) -> Path:
    """A copy of the small model's directory that a test may change."""
    return Path(shutil.copytree(small_dir, tmp_path / "own"))


def assert_small(checkpoint: SegformerCheckpoint, small: Reference) -> None:
    """The checkpoint is the small model's, with its preprocessing."""
    assert_same_model(checkpoint.get_model(), small)
    assert checkpoint.id2label == {i: f"class {i}" for i in range(7)}
    assert_small_preprocessor(checkpoint.get_preprocessor())


def assert_small_preprocessor(preprocessor: SegformerPreprocessor) -> None:
    expected = SegformerPreprocessor.from_config(small_processor().to_dict())
    assert preprocessor.to_config() == expected.to_config()
    assert (preprocessor.height, preprocessor.width) == (64, 96)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_pickled_with_ray(own_dir, small, pickler):
    checkpoint = SegformerCheckpoint.from_pretrained(own_dir).with_preprocessor_options(image_column="photo")
    data = pickler.dumps(checkpoint)
    assert len(data) < (own_dir / WEIGHTS).stat().st_size / 5  # the weights are in the object store
    shutil.rmtree(own_dir)
    copy = pickler.loads(data)
    assert copy.get_preprocessor().image_column == "photo"
    assert_small(copy, small)
    assert_small(pickler.loads(pickler.dumps(copy)), small)


@pytest.mark.parametrize("read_first", [True, False])
def test_worker_needs_no_directory(own_dir, small, read_first):
    @ray.remote
    def work(checkpoint, pixels):
        model = checkpoint.get_model()
        with torch.no_grad():
            logits = model(pixel_values=torch.from_numpy(pixels.copy())).logits.numpy()
        return logits, checkpoint.id2label, os.path.exists(checkpoint.path), checkpoint

    pixels = torch.linspace(-2, 2, 2 * 3 * 64 * 96).reshape(2, 3, 64, 96).numpy()
    checkpoint = (
        SegformerCheckpoint.from_pretrained(own_dir) if read_first else SegformerCheckpoint.from_directory(str(own_dir))
    )
    reference = ray.put(checkpoint)
    shutil.rmtree(own_dir)
    logits, id2label, there, returned = ray.get(work.remote(reference, pixels))
    np.testing.assert_allclose(logits, small.logits().numpy(), rtol=1e-4, atol=1e-4)
    assert id2label[6] == "class 6" and not there
    assert_small(returned, small)


def test_a_copy_with_options_has_the_weights_itself(ray_session):
    checkpoint = SegformerCheckpoint.demo()
    assert checkpoint.with_preprocessor_options(on_error="keep").content is checkpoint.content
