"""Checkpoints of transformers' Trainer on Ray Train, and of Ray Tune's trials, straight into `BatchPredictor`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.train
from PIL import Image
from ray import cloudpickle, tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune.schedulers import ASHAScheduler
from reference import Reference, agreement, objects, picture, save_small, small_processor
from transformers import SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.air import installed
from ray_segformer.datasets import read_images
from ray_segformer.demo import CLASSES, write_scenes
from ray_segformer.train import train_in_trial

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="needs the API of newer Ray Train")

SIZES = [(20, 30), (64, 96), (45, 33)]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Three of different sizes."""
    return [Image.fromarray(picture(*size, seed)) for seed, size in enumerate(SIZES)]


def predicted(checkpoint, images) -> list[np.ndarray]:
    """The masks of `BatchPredictor`, in the images' order."""
    dataset = ray.data.from_items([{"image": np.asarray(image), "number": n} for n, image in enumerate(images)])
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor)
    rows = predictor.predict(dataset, batch_size=2, keep_columns=["number"]).take_all()
    return [row["segmentation"] for row in sorted(rows, key=lambda row: row["number"])]


def check(masks, reference, images) -> None:
    """The masks are those of transformers."""
    expected = [reference.mask(image) for image in images]
    assert len(np.unique(np.concatenate([mask.ravel() for mask in expected]))) > 1  # or they would say nothing
    assert agreement(masks, expected) >= 0.9999


def predicted_here(checkpoint, images) -> list[np.ndarray]:
    """The masks of the predictor that `BatchPredictor` makes in its actors, in the images' order."""
    predictor = SegformerPredictor.from_checkpoint(checkpoint)
    return list(predictor.predict({"image": objects(*images)})["segmentation"])


# transformers' Trainer


def train_with_transformers(config):
    """Two steps of transformers' Trainer in a worker of Ray Train, with each of the image processors."""
    from ray.train.huggingface.transformers import RayTrainReportCallback, prepare_trainer
    from transformers import Trainer, TrainingArguments

    for number, processor in enumerate(config["processors"]):
        arguments = TrainingArguments(
            output_dir=f"trained-{number}",
            max_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            save_strategy="steps",
            save_steps=1,
            logging_steps=1,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=SegformerForSemanticSegmentation.from_pretrained(config["model"]),
            args=arguments,
            train_dataset=config["rows"],
            processing_class=processor,
        )
        trainer.add_callback(RayTrainReportCallback())
        prepare_trainer(trainer).train()


@pytest.fixture(scope="module")
def trained_with_and_without(ray_session, small_dir, images, tmp_path_factory):
    """The last checkpoints of transformers' Trainer, with an image processor and without."""
    inputs = small_processor()(
        [image.resize((96, 64)) for image in images],
        segmentation_maps=[np.full((64, 96), number, np.uint8) for number in range(len(images))],
        return_tensors="np",
    )
    result = TorchTrainer(
        train_with_transformers,
        train_loop_config={
            "model": str(small_dir),
            "processors": [small_processor(), None],
            "rows": [{name: inputs[name][n] for name in inputs} for n in range(len(images))],
        },
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=str(tmp_path_factory.mktemp("runs"))),
    ).fit()
    assert [metrics["step"] for _, metrics in result.best_checkpoints] == [1, 2, 1, 2]  # in the order of their reports
    return result.best_checkpoints[1][0], result.checkpoint


def assert_it_learned(model, small_dir):
    before = SegformerForSemanticSegmentation.from_pretrained(small_dir).decode_head.classifier.weight
    assert not np.allclose(model.decode_head.classifier.weight.detach(), before.detach(), atol=1e-4)


def test_transformers_trainer_with_its_image_processor(trained_with_and_without, small_dir, images):
    checkpoint, _ = trained_with_and_without
    assert type(checkpoint) is ray.train.Checkpoint
    directory = Path(checkpoint.path) / "checkpoint"
    assert (directory / "optimizer.pt").exists() and (directory / "preprocessor_config.json").exists()
    reference = Reference(directory)
    assert reference.processor.size == {"height": 64, "width": 96}
    assert_it_learned(reference.model, small_dir)
    check(predicted(checkpoint, images), reference, images)


def test_transformers_trainer_without_an_image_processor(trained_with_and_without, small_dir, images, tmp_path):
    _, checkpoint = trained_with_and_without
    directory = Path(checkpoint.path) / "checkpoint"
    assert not (directory / "preprocessor_config.json").exists()
    model = SegformerForSemanticSegmentation.from_pretrained(directory)
    assert_it_learned(model, small_dir)
    reference = Reference(save_small(tmp_path, model, SegformerImageProcessorPil()))
    check(predicted_here(checkpoint, images), reference, images)


# Ray Tune


@pytest.fixture(scope="module")
def results(ray_session, tmp_path_factory):
    """Two trials one after the other: the second does not train, and ASHA stops it."""
    folder = tmp_path_factory.mktemp("tune")
    datasets = {}
    for seed, split in enumerate(("train", "validation")):
        write_scenes(folder / split, 8, seed=100 * seed, height=64, width=96)
        images, annotations = str(folder / split / "images"), str(folder / split / "annotations")
        datasets[split] = read_images(images, annotations=annotations)
    shape = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "id2label": dict(enumerate(CLASSES))}
    return tune.Tuner(
        tune.with_parameters(train_in_trial, datasets=datasets),
        param_space={
            "learning_rate": tune.grid_search([5e-3, 0.0]),
            "config": {**shape, "decoder_hidden_size": 16},
            "size": (64, 96),
            "epochs": 3,
            "batch_size": 2,
        },
        tune_config=tune.TuneConfig(
            metric="learning_rate",  # reported too. Few epochs may leave the mean IoU as low as an untrained model's
            mode="max",
            scheduler=ASHAScheduler(grace_period=1, reduction_factor=2, max_t=3),
            max_concurrent_trials=1,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "runs"), verbose=0),
    ).fit()


def history(result) -> list[dict]:
    """What each epoch reported, as the checkpoint has it."""
    return SegformerCheckpoint.from_checkpoint(result.checkpoint).content.training["history"]


def test_the_best_trial_s_checkpoint_predicts(results, images):
    assert not results.errors
    best = results.get_best_result()
    assert best.config["learning_rate"] == 5e-3
    reference = Reference(best.checkpoint.path)
    assert reference.model.config.decoder_hidden_size == 16
    check(predicted(best.checkpoint, images), reference, images)


def test_a_trial_reports_each_epoch_with_its_checkpoint(results):
    best = results.get_best_result()
    epochs = history(best)
    assert [epoch["epoch"] for epoch in epochs] == list(best.metrics_dataframe["epoch"]) == [1, 2, 3]
    assert [epoch["mean_iou"] for epoch in epochs] == pytest.approx(list(best.metrics_dataframe["mean_iou"]))
    assert [metrics["epoch"] for _, metrics in best.best_checkpoints] == [1, 2, 3]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert best.metrics["validation_images"] == 8


def test_a_trial_that_was_stopped_early_has_its_last_checkpoint(results, images):
    (stopped,) = (result for result in results if result.config["learning_rate"] == 0)
    assert stopped.metrics["epoch"] == len(history(stopped)) == 1
    check(predicted_here(stopped.checkpoint, images), Reference(stopped.checkpoint.path), images)
