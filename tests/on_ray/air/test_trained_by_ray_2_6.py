"""Checkpoints of Ray 2.6's own trainer for transformers, straight into its BatchPredictor, against transformers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from ray import cloudpickle

from ray_segformer import BatchPredictor, SegformerPredictor
from ray_segformer.air import installed

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

pytestmark = pytest.mark.skipif(not installed.HAS_AIR, reason="HuggingFaceTrainer ended with Ray 2.6")

SIZE = {"height": 64, "width": 96}


def make_trainer(train_dataset, eval_dataset=None, *, with_processor):
    """A small random model's `transformers.Trainer`, of two steps, in a worker."""
    from transformers import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
        Trainer,
        TrainingArguments,
    )

    torch.manual_seed(0)
    shape = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}
    arguments = TrainingArguments(
        output_dir="trained",
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        save_strategy="epoch",
        logging_strategy="epoch",
        evaluation_strategy="no",  # the name that Ray 2.6 reads; unset, it takes it for a strategy of its own
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    processor = SegformerImageProcessor(size=SIZE, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])
    return Trainer(
        model=SegformerForSemanticSegmentation(SegformerConfig(**shape, num_labels=7)),
        args=arguments,
        train_dataset=train_dataset,
        processing_class=processor if with_processor else None,
    )


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Trains with a trainer of Ray's, and returns the run's checkpoint."""
    from ray.air.config import RunConfig, ScalingConfig

    def run(trainer_class, with_processor):
        rng = np.random.default_rng(0)
        rows = [
            {"pixel_values": rng.normal(size=(3, 64, 96)).astype(np.float32), "labels": rng.integers(0, 7, (64, 96))}
            for _ in range(4)
        ]
        return (
            trainer_class(
                make_trainer,
                trainer_init_config={"with_processor": with_processor},
                scaling_config=ScalingConfig(num_workers=1),
                run_config=RunConfig(storage_path=str(tmp_path_factory.mktemp("runs")), verbose=0),
                datasets={"train": ray.data.from_items(rows)},
            )
            .fit()
            .checkpoint
        )

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three images of different sizes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    for number, (height, width) in enumerate([(80, 100), (64, 96), (50, 31)]):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return sorted(map(str, folder.iterdir()))


def check(checkpoint, photos):
    """The masks of Ray's BatchPredictor are those of transformers with the same checkpoint's files."""
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor)
    dataset = ray.data.from_items([{"image": path, "path": path} for path in photos])
    rows = predictor.predict(dataset, batch_size=2, keep_columns=["path"]).take_all()
    masks = {row["path"]: np.asarray(row["segmentation"]) for row in rows}
    assert set(masks) == set(photos)

    with checkpoint.as_directory() as directory:
        model = SegformerForSemanticSegmentation.from_pretrained(directory).eval()
        described = (Path(directory) / "preprocessor_config.json").exists()
        processor = SegformerImageProcessor.from_pretrained(directory) if described else SegformerImageProcessor()
    equal = pixels = 0
    found = set()
    for path in photos:
        image = Image.open(path)
        with torch.no_grad():
            outputs = model(**processor(image, return_tensors="pt"))
        sizes = [(image.height, image.width)]
        expected = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0].numpy()
        assert masks[path].shape == expected.shape
        equal, pixels = equal + (masks[path] == expected).sum(), pixels + expected.size
        found |= set(np.unique(expected))
    assert len(found) > 1  # or the masks would say nothing
    assert equal >= 0.9999 * pixels
    return processor


def test_a_checkpoint_of_the_transformers_trainer(fit, photos):
    from ray.train.huggingface import TransformersCheckpoint, TransformersTrainer

    checkpoint = fit(TransformersTrainer, with_processor=True)
    assert type(checkpoint) is TransformersCheckpoint
    assert check(checkpoint, photos).size == SIZE


def test_a_checkpoint_of_the_hugging_face_trainer_without_an_image_processor(fit, photos):
    from ray.train.huggingface import HuggingFaceTrainer

    checkpoint = fit(HuggingFaceTrainer, with_processor=False)
    assert check(checkpoint, photos).size == {"height": 512, "width": 512}


def test_a_checkpoint_that_was_made_of_a_model(photos, tmp_path):
    from ray.train.huggingface import TransformersCheckpoint

    model = make_trainer(None, with_processor=False).model
    check(TransformersCheckpoint.from_model(model, path=str(tmp_path)), photos)
