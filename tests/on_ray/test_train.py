"""Fine-tuning on Ray Train: real runs of a small model, and the rows that it learns from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image, ImageFilter
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from reference import Reference, objects, picture, save_small, small_model
from safetensors.numpy import load_file, save
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ray_segformer import ImageError, SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
from ray_segformer.air import installed
from ray_segformer.datasets import read_images
from ray_segformer.demo import CLASSES, write_scenes
from ray_segformer.train import Settings, train_in_trial, train_loop_per_worker
from ray_segformer.training import IGNORED, EveryRowOfValidation, TrainingRows, augment, jitter_colours, row_generator
from ray_segformer.training._loop import schedule, train_step
from ray_segformer.training._run import guesses_of, new_run, resumed_run
from ray_segformer.viz import draw_curves

pytestmark = pytest.mark.skipif(installed.BatchPredictor is not None, reason="needs the API of newer Ray Train")

# Without dropout, so that a step can be repeated.
STILL = {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
TINY = {
    **STILL,
    "hidden_sizes": [16, 32, 40, 64],
    "depths": [1, 1, 1, 1],
    "decoder_hidden_size": 32,
    "id2label": dict(enumerate(CLASSES)),
}
EPOCHS = 4  # of the run from scratch
FILES = {
    "config.json",
    "curves.png",
    "model.safetensors",
    "optimizer.safetensors",
    "preprocessor_config.json",
    "training.json",
    "training_state.json",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Eight scenes to train on, and seven, of other sizes, to validate with."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "train", 8, height=72, width=96)
    write_scenes(folder / "validation", 7, seed=1000, height=72, width=96, vary_size=True)
    return folder


def pairs(folder: Path) -> list[tuple[Image.Image, np.ndarray]]:
    """Images and annotations of a split."""
    return [
        (Image.open(path), np.asarray(Image.open(folder / "annotations" / f"{path.stem}.png")))
        for path in sorted((folder / "images").iterdir())
    ]


def fit(scenes: Path, storage: Path, *, loop=train_loop_per_worker, workers: int = 1, **config):
    """The result of a run on the scenes, read in order."""
    datasets = {
        split: read_images(str(scenes / split / "images"), annotations=str(scenes / split / "annotations"))
        for split in ("train", "validation")
    }
    in_order = ray.data.ExecutionOptions(preserve_order=True)
    return TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(storage_path=str(storage)),
        datasets=datasets,
        dataset_config=EveryRowOfValidation(execution_options=in_order),
    ).fit()


def scores(reference: Reference, split: Path, **protocol) -> dict[str, float]:
    """What transformers and a count of pixels say, one class at a time; by mmsegmentation's `protocol`, if any."""
    images = pairs(split)
    masks = [
        reference.averaged_logits(image, **protocol).argmax(0).numpy() if protocol else reference.mask(image)
        for image, _ in images
    ]
    predicted = np.concatenate([mask.ravel() for mask in masks])
    annotated = np.concatenate([annotation.ravel() for _, annotation in images])
    ious, accuracies = [], []
    for number in range(reference.model.config.num_labels):
        ours, theirs = predicted == number, annotated == number
        if (ours | theirs).any():
            ious.append((ours & theirs).sum() / (ours | theirs).sum())
        if theirs.any():
            accuracies.append((ours & theirs).sum() / theirs.sum())
    return {
        "mean_iou": np.mean(ious),
        "mean_accuracy": np.mean(accuracies),
        "overall_accuracy": (predicted == annotated).mean(),
        "val_loss": np.mean([reference.loss(image, annotation) for image, annotation in images]),
    }


# Runs


@pytest.fixture(scope="module")
def from_scratch(ray_session, scenes, tmp_path_factory):
    """A run from scratch: each epoch is one step with all training images, as they are."""
    storage = tmp_path_factory.mktemp("from_scratch")
    settings = {"size": (64, 96), "epochs": EPOCHS, "batch_size": 8, "learning_rate": 5e-3, "augment": False}
    return fit(scenes, storage, config=TINY, weight_decay=0.1, **settings)


def test_the_scores_are_those_of_transformers(from_scratch, scenes):
    expected = scores(Reference(from_scratch.checkpoint.path), scenes / "validation")
    assert {name: from_scratch.metrics[name] for name in expected} == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert from_scratch.metrics["validation_images"] == 7


def test_the_loss_falls(from_scratch):
    history = SegformerCheckpoint.from_checkpoint(from_scratch.checkpoint).content.training["history"]
    assert history[0]["loss"] > history[-1]["loss"]
    assert history[0]["val_loss"] > history[-1]["val_loss"]


def test_the_checkpoint_is_plain_files_that_everybody_loads(from_scratch, scenes):
    directory = Path(from_scratch.checkpoint.path)
    assert {path.name for path in directory.iterdir()} - {".metadata.json"} == FILES
    training = json.loads((directory / "training.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert [epoch["epoch"] for epoch in training["history"]] == list(range(1, EPOCHS + 1))
    assert training["history"][-1]["mean_iou"] == from_scratch.metrics["mean_iou"]
    assert len(training["history"][-1]["per_category_iou"]) == len(CLASSES)
    assert training["settings"]["size"] == [64, 96] and training["settings"]["learning_rate"] == 5e-3
    assert training["base_model"] is None and not {"model", "config"} & set(training["settings"])
    assert training["versions"]["ray"] == ray.__version__ and training["versions"]["torch"] == torch.__version__
    predictor = SegformerPredictor.from_checkpoint(SegformerCheckpoint.from_checkpoint(from_scratch.checkpoint))
    image, _ = pairs(scenes / "validation")[0]
    mask = predictor.predict({"image": objects(image)})["segmentation"][0]
    assert (mask == Reference(directory).mask(image)).mean() > 0.999


def test_a_step_has_the_loss_and_the_gradients_of_transformers(from_scratch, scenes):
    torch.manual_seed(0)  # the run's seed: the same weights to start from
    model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(TINY)).train()
    processor = SegformerImageProcessorPil(size={"height": 64, "width": 96})
    images, annotations = zip(*pairs(scenes / "train"), strict=True)
    batch = processor(list(images), segmentation_maps=[map.copy() for map in annotations], return_tensors="pt")
    loss = model(**batch).loss
    loss.backward()
    checkpoint, metrics = from_scratch.best_checkpoints[0]  # of the first epoch: they are in order
    assert metrics["epoch"] == 1
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    moments = load_file(Path(checkpoint.path) / "optimizer.safetensors")
    largest = max(float(parameter.grad.abs().max()) for parameter in model.parameters())
    for number, parameter in enumerate(model.parameters()):
        gradient = moments[f"{number}.exp_avg"] / 0.1  # AdamW's first moment after a step
        np.testing.assert_allclose(gradient, parameter.grad, rtol=1e-2, atol=1e-5 * largest)
    # Each epoch is AdamW's step of its moments, by its definition, with a rate that falls in a line.
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    for step, (checkpoint, metrics) in enumerate(from_scratch.best_checkpoints, 1):
        rate = 5e-3 * (1 - (step - 1) / EPOCHS)
        assert metrics["learning_rate"] == pytest.approx(rate)
        moments = load_file(Path(checkpoint.path) / "optimizer.safetensors")
        after = {
            name: parameter.detach().numpy() for name, parameter in Reference(checkpoint.path).model.named_parameters()
        }
        for number, name in enumerate(weights):
            mean = moments[f"{number}.exp_avg"] / (1 - 0.9**step)
            square = moments[f"{number}.exp_avg_sq"] / (1 - 0.999**step)
            expected = weights[name] * (1 - rate * 0.1) - rate * mean / (np.sqrt(square) + 1e-8)
            np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
            weights[name] = after[name]


def test_a_loss_that_is_not_finite_ends_the_training():
    model = SegformerForSemanticSegmentation(SegformerConfig.from_dict(TINY))
    before = model.decode_head.classifier.bias.detach().clone()
    torch.nn.init.constant_(model.decode_head.classifier.weight, torch.inf)
    batch = {"pixel_values": torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "labels": torch.zeros(1, 32, 32).long()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan; a lower learning_rate may help, which is 0\.5 here"
    ):
        train_step(model, optimizer, SegformerPreprocessor(32), batch, 0.5, False)
    assert torch.equal(model.decode_head.classifier.bias, before)


def test_two_workers_count_each_validation_image_once_and_start_a_new_classifier(ray_session, scenes, tmp_path):
    directory = save_small(tmp_path / "model", small_model(num_labels=3, **STILL))
    labels = dict(enumerate(CLASSES))
    settings = {"epochs": np.int64(1), "batch_size": np.int32(2), "learning_rate": 0.0, "weight_decay": 0.0}
    checkpoint = SegformerCheckpoint.from_pretrained(directory)
    protocol = {"window": 64, "stride": 48, "flip": True}
    settings |= {"model": checkpoint, "id2label": labels, "protocol": protocol}
    result = fit(scenes, tmp_path / "runs", workers=2, **settings)

    trained = Reference(result.checkpoint.path)
    assert result.metrics["validation_images"] == 7  # which two do not divide
    expected = scores(trained, scenes / "validation", **protocol)
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, rel=2e-3, abs=1e-4)
    assert trained.model.config.id2label == labels
    before, after = (Reference(where).model.state_dict() for where in (directory, result.checkpoint.path))
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    for name in set(before) - changed:
        assert "batch_norm" in name or torch.equal(before[name], after[name]), name
    training = SegformerCheckpoint.from_checkpoint(result.checkpoint).content.training
    assert training["settings"]["protocol"] == protocol
    assert training["settings"]["batch_size"] == 2
    assert training["workers"] == 2 and training["base_model"] == str(directory)


def test_ids_outside_the_classes_fail_with_the_file_s_name(ray_session, scenes, tmp_path, small_dir):
    with pytest.raises(Exception, match=r"class ids 7 \(.*which are 0 to 6; .*label_map=") as raised:
        fit(scenes, tmp_path, model=str(small_dir), epochs=1)
    assert "train/images/scene_0000" in str(raised.value)


# Settings


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="unknown keys in train_loop_config: epoch, lr; known are model, config"):
        Settings.of({"model": "x", "epoch": 3, "lr": 1e-3})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "either 'model'"),
        ({"model": "x", "config": {}}, "either 'model' .* and has both"),
        ({"model": "x", "ignore_index": -100}, "ignore_index is a class id of the annotations, in .*, not -100"),
        ({"model": "x", "epochs": 0}, "epochs is 1 or more, not 0"),
        ({"model": "x", "batch_size": 0}, "batch_size is 1 or more, not 0"),
        ({"model": "x", "seed": -1}, "seed is 0 or more, not -1"),
        ({"model": "x", "batch_size": 4.0}, "batch_size is a whole number, not 4.0"),
        ({"model": "x", "training_images": True}, "training_images is a whole number, not True"),
        ({"model": "x", "learning_rate": "1e-4"}, "learning_rate is a number, not '1e-4'"),
        ({"model": "x", "learning_rate": float("nan")}, "learning_rate is 0 or more, not nan"),
        ({"model": "x", "reduce_labels": "false"}, "reduce_labels is True or False, not 'false'"),
        ({"model": "x", "augment": None}, "augment is True or False, not None"),
        ({"model": "x", "size": (96, 0)}, r"size is .* in whole pixels; got \(96, 0\)"),
        ({"model": "x", "annotation_column": None}, "annotation_column is the name of a column, not None"),
        ({"model": "x", "id2label": ["sky", "road"]}, r"id2label is a dict, not \['sky', 'road'\]"),
        ({"model": "x", "id2label": []}, r"id2label is a dict, not \[\]"),
        ({"model": "x", "id2label": {0.5: "sky", 1: "road"}}, "id2label names classes by whole numbers, not by 0.5"),
        ({"model": "x", "protocol": {"windows": 3}}, "unknown keys in protocol: windows; known are resize, window"),
        ({"model": "x", "protocol": {"stride": 3}}, "needs sliding windows"),
        ({"model": "x", "mixed_precision": "float16"}, "mixed_precision"),
    ],
)
def test_wrong_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Settings.of(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"config": {**TINY, "hidden_size": [16], "embed": 3}}, "does not use: embed, hidden_size"),
        ({"config": {**TINY, "hidden_size": [16]}}, "hidden_size; did you mean hidden_sizes"),
        ({"config": {**TINY, "depths": [1, 1]}}, r"an entry for each of 4 num_encoder_blocks; depths is \[1, 1\]"),
        ({"config": {**TINY, "depths": 2}}, "an entry for each of 4 num_encoder_blocks; depths is 2"),
        ({"config": {**TINY, "hidden_act": "none"}}, "config: transformers builds no SegFormer of it: KeyError"),
        ({"config": TINY, "size": (96, 28)}, "size: the network needs at least 29 pixels on each side, not 96 x 28"),
        ({"config": TINY, "protocol": {"window": 28}}, "protocol: .* at least 29 pixels on each side, and gets 28"),
        ({"config": TINY, "size": 96, "protocol": {"scales": [0.25, 1]}}, "protocol: .* at least 29 .* and gets 24"),
    ],
)
def test_what_the_network_cannot_take_is_refused_before_the_first_step(config, message):
    with pytest.raises(ValueError, match=message):
        new_run(Settings.of(config))


def test_own_classes_numbered_as_those_of_the_model_are_said(tmp_path):
    model = save_small(tmp_path, small_model(num_labels=3))
    SegformerPreprocessor(64, do_reduce_labels=True).save_pretrained(model)
    settings = {"model": str(model), "id2label": {0: "ground", 1: "roof"}}

    def codes(**more):
        asked = Settings.of({**settings, **more})
        return [guess.code for guess in guesses_of(new_run(asked), asked)]

    assert codes() == ["labels-reduced"]
    assert codes(reduce_labels=True) == codes(reduce_labels=False) == codes(id2label=None) == []
    assert codes(label_colors={(9, 9, 9): 0}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id2label": {0: "other", 1: "names"}}, "id2label was {.*'0': 'sky'.*}, now {'0': 'other', '1': 'names'}"),
        ({"size": 64}, r"size was \[64, 96\], now \[64, 64\]"),
        ({"reduce_labels": True, "ignore_index": 0}, "reduce_labels was False, now True; ignore_index was None, now 0"),
        ({"config": {**TINY, "depths": [1, 1, 1, 2]}}, "started from another model than this config, .* another name"),
        ({"config": None, "model": SegformerCheckpoint.demo()}, "started from another model than this model"),
        ({"label_map": {255: 1}}, "label_map was None, now {'255': 1}: .* give the new run another name"),
    ],
)
def test_what_changes_model_classes_or_annotations_is_refused_in_a_run_that_is_resumed(from_scratch, change, message):
    same = {"config": TINY, "epochs": 9, "learning_rate": 1.0, "size": {"height": 64, "width": 96}, "augment": True}
    assert len(resumed_run(from_scratch.checkpoint, Settings.of(same)).history) == EPOCHS
    with pytest.raises(ValueError, match=message):
        resumed_run(from_scratch.checkpoint, Settings.of({**same, **change}))


def test_a_run_that_is_resumed_goes_on_with_its_learning_rate_whatever_the_steps_of_an_epoch(from_scratch):
    run = resumed_run(from_scratch.checkpoint, Settings.of({"config": TINY, "size": {"height": 64, "width": 96}}))
    steps, an_epoch = run.step, run.steps_an_epoch
    assert steps == EPOCHS * an_epoch
    run.count_steps(an_epoch)
    assert run.step == steps
    run.count_steps(3 * an_epoch)  # with a third of the batch size, or three times the images
    assert run.step == 3 * steps and schedule(run.step, 3 * an_epoch * 2 * EPOCHS) == pytest.approx(1 / 2)


def test_the_learning_rate_rises_for_a_tenth_of_the_steps_or_1500_and_falls_to_nothing():
    assert [schedule(step, 40) for step in (0, 1, 3, 4, 20, 39)] == pytest.approx(
        [1 / 4, 2 / 4 * 39 / 40, 37 / 40, 36 / 40, 20 / 40, 1 / 40]
    )
    assert [schedule(step, 100_000) for step in (749, 1499, 1500)] == pytest.approx([0.5 * 0.99251, 0.98501, 0.985])


def test_a_damaged_state_is_named(from_scratch, tmp_path):
    with from_scratch.checkpoint.as_directory() as directory:
        shutil.copytree(directory, tmp_path / "checkpoint")
    checkpoint = Checkpoint.from_directory(str(tmp_path / "checkpoint"))
    foreign = save({"x.exp_avg": np.zeros(1)})
    damaged = [("optimizer.safetensors", b"cut"), ("optimizer.safetensors", foreign), ("training.json", b"{}")]
    damaged += [("training_state.json", content) for content in (b"{", b"{}", b"[]")]
    for name, content in damaged:
        file = tmp_path / "checkpoint" / name
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint: cannot resume from this checkpoint, .* or a damaged one"):
            resumed_run(checkpoint, Settings.of({"config": TINY}))
        file.write_bytes(whole)


def test_without_a_trial_nothing_is_trained_in_one():
    with pytest.raises(RuntimeError, match="is for the trials of a Tuner"):
        train_in_trial({"config": {}}, {"train": None, "validation": None})


def test_images_of_29_pixels_are_large_enough_and_their_scales_of_larger_ones():
    run = new_run(Settings.of({"config": TINY, "size": 29, "protocol": {"resize": "none", "scales": [0.25, 1]}}))
    assert run.model.eval()(torch.zeros(1, 3, 29, 29)).logits.shape[:2] == (1, len(CLASSES))


# Rows


PALETTE = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250]], np.uint8)


def coded(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """An image whose colours are its classes, in regions of no symmetry."""
    y, x = np.mgrid[:height, :width]
    labels = ((x // 41 + 2 * (y // 31)) % len(PALETTE)).astype(np.uint8)  # no region is so thin as to get lost
    return PALETTE[labels], labels


@pytest.mark.parametrize("size", [(96, 96), (64, 128), (200, 90)])
def test_pixels_stay_with_their_labels(size):
    rgb, labels = coded()
    padded = 0
    for seed in range(40):
        pixels, ids = augment(rgb, labels, size, np.random.default_rng(seed), jitter=False)
        assert pixels.shape == (*size, 3) and ids.shape == size and pixels.dtype == ids.dtype == np.uint8
        ignored = ids == IGNORED
        image_height, image_width = (~ignored).any(1).sum(), (~ignored).any(0).sum()
        assert not ignored[:image_height, :image_width].any()  # padded at the right and at the bottom only
        assert (pixels[ignored] == (124, 116, 104)).all()
        padded += ignored.any()
        # Away from edges, which are mixed, also with what is outside of the crop, pixels have their label's colour.
        lowest, highest = (
            np.asarray(Image.fromarray(ids).filter(kind(9))) for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
        )
        flat = (lowest == highest) & (highest != IGNORED)
        flat[:4] = flat[-4:] = flat[:, :4] = flat[:, -4:] = False
        assert flat.any()
        assert (pixels[flat] == PALETTE[ids[flat]]).all()
        # At the edges, the nearest colour is mostly the label's.
        kept = ~ignored
        distance = np.abs(pixels[kept][:, None].astype(int) - PALETTE[None]).sum(-1)
        assert (distance.argmin(1) == ids[kept]).mean() > 0.9
    assert 0 < padded < 40


def test_a_crop_of_the_whole_is_the_image_or_its_mirror():
    rgb, labels = coded(64, 64)

    class AtScaleOne:
        """A generator of one scale and one position."""

        def __init__(self, flip):
            self.flip = flip

        def uniform(self, low, high):
            return 1.0

        def integers(self, low, high):
            return low

        def random(self):
            return 0.0 if self.flip else 1.0

    for step in (1, -1):
        pixels, ids = augment(rgb, labels, (64, 64), AtScaleOne(step == -1), jitter=False)
        assert np.array_equal(pixels, rgb[:, ::step]) and np.array_equal(ids, labels[:, ::step])


def test_scales_and_flips_vary():
    rgb, labels = coded()
    sides = [(augment(rgb, labels, (300, 300), np.random.default_rng(n))[1] != IGNORED).any(1).sum() for n in range(60)]
    assert min(sides) < 170 and max(sides) == 300  # from half of the crop to all of it
    grey, mirror = np.repeat(np.arange(64, dtype=np.uint8)[None], 64, 0), 0
    for seed in range(60):
        _, ids = augment(np.stack([grey] * 3, -1), grey, (64, 64), np.random.default_rng(seed))
        mirror += int(ids[0, 0]) > int(ids[0, 10])
    assert 15 < mirror < 45


def test_jitter_changes_colours_within_its_strength():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    values = {tuple(np.asarray(jitter_colours(grey, np.random.default_rng(seed)))[0, 0]) for seed in range(50)}
    assert all(len(set(value)) == 1 and 74 <= value[0] <= 126 for value in values)  # grey stays grey
    assert len(values) > 20
    red = Image.new("RGB", (8, 8), (200, 20, 20))
    results = [np.asarray(jitter_colours(red, np.random.default_rng(seed)))[0, 0] for seed in range(50)]
    assert all(result.argmax() == 0 for result in results)  # a tenth of a turn is no other primary colour
    assert any(result[1] > result[2] + 20 for result in results) and any(
        result[2] > result[1] + 20 for result in results
    )


def test_chance_depends_on_image_epoch_and_seed_alone():
    images = [picture(40, 60, seed) for seed in range(4)]
    annotations = [np.full((40, 60), seed, np.uint8) for seed in range(4)]

    def made(order, **options):
        rows = TrainingRows(SegformerPreprocessor(32), 7, **options)
        batch = {"image": objects(*(images[i] for i in order)), "annotation": objects(*(annotations[i] for i in order))}
        return rows.for_training(batch)["pixel_values"]

    expected = made([0, 1, 2, 3], seed=1, epoch=2)
    assert expected.shape == (4, 3, 32, 32) and expected.dtype == torch.uint8
    assert torch.equal(made([3, 1], seed=1, epoch=2), expected[[3, 1]])
    assert not torch.equal(made([0, 1, 2, 3], seed=1, epoch=3), expected)
    assert not torch.equal(made([0, 1, 2, 3], seed=2, epoch=2), expected)
    generators = [row_generator(0, 0, image).random() for image in images]
    assert len(set(generators)) == 4


def test_rows_are_refused_with_the_reason():
    def rows(annotation, reduce=False, **columns):
        preprocessor = SegformerPreprocessor(32, do_reduce_labels=reduce)
        batch = {"path": objects("a.jpg"), "image": objects(picture()), "annotation": objects(annotation), **columns}
        return TrainingRows(preprocessor, 7).for_validation(batch)

    ids = np.zeros((20, 30), np.uint8)
    with pytest.raises(
        ImageError, match=r"a\.jpg: wrong annotation: the class ids 7 .* which are 0 to 6; .*reduce_labels=True"
    ):
        rows(ids + 7)
    with pytest.raises(ImageError, match=r"the class ids 8 .* which are 1 to 7; .*reduce_labels=False"):
        rows(ids + 8, reduce=True)
    with pytest.raises(ImageError, match=r"a\.jpg: the annotation is \(30, 20\) but its image is \(20, 30\).* EXIF"):
        rows(ids.T)
    with pytest.raises(ImageError, match=r"a\.jpg: null"):
        rows(ids, image=objects(None))
    few = TrainingRows(SegformerPreprocessor(32), 7, max_pixels=599)
    with pytest.raises(ImageError, match=r"too large: .*, above the limit of 599; .* raise the limit with max_pixels="):
        few.for_validation({"image": objects(picture()), "annotation": objects(ids)})
    with pytest.raises(ValueError, match="no column 'photo', only"):
        TrainingRows(SegformerPreprocessor(32), 7, image_column="photo").for_training({"image": objects(picture())})
    batch, (annotation,), _ = rows(ids + 7, reduce=True)
    assert (annotation == 6).all() and (batch["labels"] == 6).all()
    assert (rows(ids, reduce=True)[1][0] == IGNORED).all()


def test_validation_images_are_looked_at_before_the_first_epoch(ray_session, scenes):
    images = read_images(str(scenes / "train" / "images"), annotations=str(scenes / "train" / "annotations"))
    few_classes, cpu = TrainingRows(SegformerPreprocessor(32), 2), torch.device("cpu")
    with pytest.raises(ImageError, match=r"scene_00000\.jpg: wrong annotation: the class ids 2, "):
        few_classes.look_at_validation(images.iterator(), cpu)
    with pytest.raises(ValueError, match="no column 'annotation', only"):
        few_classes.look_at_validation(images.drop_columns(["annotation"]).iterator(), cpu)
    with pytest.raises(ValueError, match="the dataset 'validation' has no rows"):
        few_classes.look_at_validation(images.limit(0).iterator(), cpu)


def test_each_epoch_has_all_images_in_an_order_of_its_own(ray_session, scenes):
    folders = (str(scenes / "train" / kind) for kind in ("images", "annotations"))
    images = read_images(next(folders), annotations=next(folders)).materialize()
    images.context.execution_options.preserve_order = True

    def order(epoch):
        rows = TrainingRows(SegformerPreprocessor(32), len(CLASSES), augmented=False, epoch=epoch)
        batches = rows.training_batches(images.iterator(), 3)
        return [int(pixels.sum()) for batch in batches for pixels in batch["pixel_values"]]

    paths = images.take_all()
    unshuffled = TrainingRows(SegformerPreprocessor(32), len(CLASSES), augmented=False)
    columns = {name: objects(*(row[name] for row in paths)) for name in ("image", "annotation")}
    expected = [int(pixels.sum()) for pixels in unshuffled.for_training(columns)["pixel_values"]]
    first, second = order(0), order(1)
    assert order(0) == first
    assert sorted(first) == sorted(second) == sorted(expected) and len({*expected}) == 8
    assert first != second and expected not in (first, second)


# Curves


def test_curves_of_a_history_with_gaps():
    history = [{"epoch": n + 1, "loss": 1 / (n + 1), "val_loss": None, "mean_iou": n / 10} for n in range(4)]
    drawn = draw_curves({"history": history})
    assert drawn.mode == "RGB" and drawn.size == (1170, 442)
    history[3]["mean_iou"] = None
    assert np.any(np.asarray(drawn) != np.asarray(draw_curves({"history": history})))
    with pytest.raises(ValueError, match="no history"):
        draw_curves({})
