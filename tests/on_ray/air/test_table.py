"""Which class is whose: the table of `ray_segformer.air.installed`, row by row."""

import importlib

import pytest
import ray
from packaging.version import Version

import ray_segformer
from ray_segformer import air

INSTALLED = Version(ray.__version__)
ON_2_6 = Version("2.6") <= INSTALLED < Version("2.7")
ON_2_7_TO_2_55 = Version("2.7") <= INSTALLED < Version("2.56")
ON_2_56 = Version("2.56") <= INSTALLED


def rays(module, name):
    """Ray's own object of that name, or None where this Ray has none."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


@pytest.mark.skipif(not ON_2_6, reason="needs Ray 2.6")
def test_on_ray_2_6_all_three_are_rays():
    assert ray_segformer.Predictor is rays("ray.train.predictor", "Predictor") is not None
    assert ray_segformer.BatchMapper is rays("ray.data.preprocessors", "BatchMapper") is not None
    assert ray_segformer.BatchPredictor is rays("ray.train.batch_predictor", "BatchPredictor") is not None


@pytest.mark.skipif(not ON_2_7_TO_2_55, reason="needs Ray 2.7 to 2.55")
def test_on_ray_2_7_to_2_55_only_the_predictor_is_rays():
    assert ray_segformer.Predictor is rays("ray.train.predictor", "Predictor") is not None
    assert ray_segformer.BatchMapper.__module__ == "ray_segformer.air._batch_mapper"
    assert ray_segformer.BatchPredictor.__module__ == "ray_segformer.air._batch_predictor"


@pytest.mark.skipif(not ON_2_56, reason="needs Ray 2.56 or newer")
def test_on_ray_2_56_all_three_are_ours():
    assert rays("ray.train.predictor", "Predictor") is None
    assert ray_segformer.Predictor.__module__ == "ray_segformer.air._predictor"
    assert ray_segformer.BatchMapper.__module__ == "ray_segformer.air._batch_mapper"
    assert ray_segformer.BatchPredictor.__module__ == "ray_segformer.air._batch_predictor"


def test_the_checkpoint_is_rays():
    assert air.Checkpoint is (rays("ray.air.checkpoint", "Checkpoint") if ON_2_6 else rays("ray.train", "Checkpoint"))
    assert issubclass(ray_segformer.SegformerCheckpoint, air.Checkpoint)


def test_the_segformer_classes_have_these_bases():
    assert issubclass(ray_segformer.SegformerPredictor, ray_segformer.Predictor)
    assert issubclass(ray_segformer.SegformerPreprocessor, ray_segformer.BatchMapper)
    assert issubclass(ray_segformer.BatchMapper, air.Preprocessor)
    assert air.Preprocessor is rays("ray.data.preprocessor", "Preprocessor")


def test_the_exception_goes_with_the_predictor():
    assert issubclass(air.PredictorNotSerializableException, RuntimeError)
    assert air.PredictorNotSerializableException.__module__ == ray_segformer.Predictor.__module__
