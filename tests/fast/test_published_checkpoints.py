"""Checkpoints as people publish them: odd settings, odd files, and what is missing. Compared with transformers."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from reference import agreement, objects, picture, resized, save_small, small_model, small_processor
from safetensors.torch import load_file, save_file
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ray_segformer import CheckpointError, SegformerCheckpoint, SegformerPredictor, SegformerPreprocessor
from ray_segformer._guesses import SegformerWarning
from ray_segformer.cli import main

PICTURES = [picture(*size, seed) for seed, size in enumerate([(50, 70), (70, 50), (200, 40), (48, 48), (31, 97)])]


@pytest.fixture
def variant(small_dir, tmp_path):
    """Makes a copy of the small model with other settings, by the name of the file, or without some files."""

    def make(*, without=(), **changes):
        directory = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(small_dir, directory)
        for file, settings in changes.items():
            path = directory / f"{file}.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        for name in without:
            (directory / name).unlink()
        return directory

    return make


def guesses_of(directory):
    """The checkpoint, and the codes of the warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = SegformerCheckpoint.from_pretrained(directory)
    return checkpoint, [each.message.code for each in caught if issubclass(each.category, SegformerWarning)]


# Classes


def test_two_unnamed_classes_have_transformers_names(tmp_path):
    model = small_model(2)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    save_small(tmp_path / "model", model)
    assert "id2label" not in json.loads((tmp_path / "model/config.json").read_text())  # transformers leaves it out
    checkpoint, guesses = guesses_of(tmp_path / "model")
    reference = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model").config.id2label
    assert checkpoint.id2label == reference == {0: "LABEL_0", 1: "LABEL_1"}
    assert guesses == []


def test_classes_without_a_name_have_a_number(variant):
    directory = variant(config={"id2label": None, "label2id": None, "num_labels": None})
    assert SegformerCheckpoint.from_pretrained(directory).id2label == {number: f"LABEL_{number}" for number in range(7)}


def test_one_class_is_said(tmp_path):
    checkpoint, guesses = guesses_of(save_small(tmp_path / "model", small_model(1)))
    assert guesses == ["one-class"]
    assert checkpoint.id2label == {0: "class 0"}


# Settings of images


@pytest.mark.parametrize(
    "size",
    [
        [64, 96],
        (64, 96),
        48,
        {"height": 64, "width": 96},
        {"shortest_edge": 48},
        {"shortest_edge": 48, "longest_edge": 60},
        {"shortest_edge": 48, "longest_edge": 48},
        {"max_height": 40, "max_width": 70},
    ],
    ids=str,
)
def test_sizes_are_transformers_to_the_byte(size, tmp_path):
    reference = SegformerImageProcessorPil(size=size)
    reference.save_pretrained(tmp_path)
    for preprocessor in (SegformerPreprocessor(size), SegformerPreprocessor.from_pretrained(tmp_path)):
        images = [*PICTURES, picture(21, 31)]  # which is smaller than all sizes
        batch = preprocessor.preprocess({"image": objects(*images)})
        for image, pixel_values in zip(images, batch["pixel_values"], strict=True):
            assert np.array_equal(pixel_values, resized(reference, Image.fromarray(image)))


def test_whole_floats_are_sizes(tmp_path):
    of_integers = SegformerImageProcessorPil(size={"height": 64, "width": 64})
    batch = SegformerPreprocessor(64.0).preprocess({"image": objects(*PICTURES)})
    for image, pixel_values in zip(PICTURES, batch["pixel_values"], strict=True):
        assert np.array_equal(pixel_values, resized(of_integers, Image.fromarray(image)))


@pytest.mark.parametrize(
    "size",
    [{"longest_edge": 50}, {"height": 64}, "512", [64], 64.5, True, 0, {"shortest_edge": 60, "longest_edge": 50}],
)
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="size"):
        SegformerPreprocessor(size)


def test_an_image_that_grows_beyond_the_limit_is_refused():
    preprocessor = SegformerPreprocessor({"shortest_edge": 5000}, on_error="keep")
    (error,) = preprocessor.preprocess({"image": [np.zeros((1, 60_000, 3), np.uint8)]})["error"]
    assert "too large" in error


def test_masks_by_a_shortest_edge_are_transformers(tmp_path):
    directory = save_small(tmp_path / "model", processor=small_processor(size={"shortest_edge": 64}))
    model = SegformerForSemanticSegmentation.from_pretrained(directory)
    processor = SegformerImageProcessorPil.from_pretrained(directory)
    expected = []
    for image in PICTURES:
        with torch.no_grad():
            outputs = model(**processor(Image.fromarray(image), return_tensors="pt"))
        sizes = [image.shape[:2]]
        expected.append(processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0].numpy())
    masks = SegformerPredictor(directory).predict({"image": objects(*PICTURES)})["segmentation"]
    assert agreement(masks, expected) >= 0.9999


def test_one_number_is_the_statistic_of_all_channels(variant, tmp_path):
    settings = {"image_mean": 0.4, "image_std": 0.2}
    directory = variant(preprocessor_config=settings)
    batch = SegformerCheckpoint.from_pretrained(directory).get_preprocessor().preprocess({"image": PICTURES[:1]})
    pixel_values = SegformerPreprocessor.from_pretrained(directory).normalize(torch.from_numpy(batch["pixel_values"]))
    reference = SegformerImageProcessorPil.from_pretrained(directory)
    expected = reference(Image.fromarray(PICTURES[0]), return_tensors="pt").pixel_values
    assert torch.allclose(pixel_values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}, "do_center_crop True"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order True"),
        ({"do_pad": True, "size_divisor": 32}, "do_pad True"),
    ],
)
def test_a_setting_that_would_change_pixels_is_refused_by_its_name(variant, settings, message):
    settings |= {"image_processor_type": "BeitImageProcessor"}
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json: not supported.*{message}"):
        SegformerCheckpoint.from_pretrained(variant(preprocessor_config=settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 48, "default_to_square": False},
        {"size": 48, "default_to_square": True},
        {"size": [64, 32], "default_to_square": False},
        {"do_resize": None, "size": None},
        {"do_rescale": None, "rescale_factor": None},
        {"do_normalize": None, "image_mean": None},
    ],
    ids=str,
)
def test_what_a_setting_that_is_false_or_null_does_is_what_transformers_does(variant, settings):
    directory = variant(preprocessor_config=settings)
    reference = SegformerImageProcessorPil.from_pretrained(directory)
    preprocessor = SegformerCheckpoint.from_pretrained(directory).get_preprocessor()
    for image in PICTURES:
        (pixel_values,) = preprocessor.preprocess({"image": image[None]})["pixel_values"]
        expected = reference(Image.fromarray(image), return_tensors="pt").pixel_values[0]
        assert torch.allclose(preprocessor.normalize(torch.from_numpy(pixel_values)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": None}, "resample: null, although do_resize is on"),
        ({"image_mean": None, "image_std": None}, "image_mean, image_std: null, although do_normalize is on"),
        ({"image_std": [0.2, 0, 0.2]}, r"image_std: pixels are divided by it, .*got \(0.2, 0.0, 0.2\)"),
        ({"image_mean": float("nan")}, "image_mean is a finite number, not nan"),
        ({"do_reduce_labels": "false"}, "do_reduce_labels is true or false, not 'false'"),
        ({"rescale_factor": float("inf")}, "rescale_factor is a finite number, not inf"),
    ],
)
def test_settings_by_which_no_pixel_can_be_made_are_refused(variant, settings, message):
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json: {message}"):
        SegformerCheckpoint.from_pretrained(variant(preprocessor_config=settings))


def test_settings_without_effect_are_taken_from_any_class(variant):
    others = {
        "image_processor_type": "BeitImageProcessor",
        "do_center_crop": False,
        "crop_size": {"height": 3, "width": 3},
    }
    checkpoint = SegformerCheckpoint.from_pretrained(variant(preprocessor_config=others))
    assert (checkpoint.get_preprocessor().height, checkpoint.get_preprocessor().width) == (64, 96)


def test_another_class_must_say_all_settings(variant):
    settings = {"image_processor_type": "BeitImageProcessor", "resample": None, "do_center_crop": False}
    with pytest.raises(CheckpointError, match=r"BeitImageProcessor has other defaults .*does not say resample; add"):
        SegformerCheckpoint.from_pretrained(variant(preprocessor_config=settings))


def test_settings_may_be_nested(variant, small_dir):
    directory = variant()
    settings = json.loads((small_dir / "preprocessor_config.json").read_text())
    (directory / "preprocessor_config.json").write_text(
        json.dumps({"image_processor": settings, "processor_class": "X"})
    )
    assert SegformerCheckpoint.from_pretrained(directory).get_preprocessor().image_mean == (0.4, 0.5, 0.6)


@pytest.mark.parametrize(("old", "new"), [(True, False), (False, True)])
def test_of_two_settings_of_labels_the_new_one_wins(old, new):
    preprocessor = SegformerPreprocessor.from_config({"reduce_labels": old, "do_reduce_labels": new})
    assert preprocessor.do_reduce_labels is new
    assert SegformerPreprocessor.from_config({"reduce_labels": old}).do_reduce_labels is old


def test_settings_that_are_missing_are_said(variant, capsys):
    directory = variant(without=["preprocessor_config.json"])
    checkpoint, guesses = guesses_of(directory)
    assert guesses == ["no-preprocessor-config"]
    assert checkpoint.get_preprocessor().to_config()["size"] == {"height": 512, "width": 512}
    assert main(["info", str(directory)]) == 0
    printed = capsys.readouterr()
    assert "assumed" in printed.out and "no preprocessor_config.json" in printed.out
    assert printed.err.count("ray-segformer: warning:") == printed.err.count("\n") == 1
    assert main(["info", str(directory), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["guesses"]) == ["no-preprocessor-config"]


# Channels, weights, encoders


@pytest.mark.parametrize("channels", [1, 4, 18])
def test_models_of_other_images_are_refused_when_they_are_loaded(tmp_path, channels):
    directory = save_small(tmp_path / "model", small_model(num_channels=channels))
    with pytest.raises(CheckpointError, match=rf"takes {channels} channels \(num_channels\); images here have 3"):
        SegformerCheckpoint.from_pretrained(directory)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "model._orig_mod."])
def test_a_prefix_of_all_names_is_removed(variant, small, prefix):
    directory = variant()
    weights = {prefix + name: tensor for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    logits = small.logits(SegformerCheckpoint.from_pretrained(directory).get_model())
    assert torch.allclose(logits, small.logits(), atol=1e-4)


def test_weights_that_are_no_finite_floats(variant):
    directory, broken = variant(), variant()
    weights = load_file(directory / "model.safetensors")
    quantised = {name: tensor.to(torch.int8) for name, tensor in weights.items()}
    save_file(quantised, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"decode_head\.batch_norm\.bias holds int8, expected floats"):
        SegformerCheckpoint.from_pretrained(directory)
    infinity = float("inf")
    for values in ((float("nan"), 0), (infinity, 0), (infinity, -infinity)):
        weights["decode_head.classifier.bias"][3:5] = torch.tensor(values)
        save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
        checkpoint, guesses = guesses_of(broken)
        assert guesses == ["weights-not-finite"]
        assert "decode_head.classifier.bias hold NaN" in checkpoint.content.guesses[0].message


def test_as_many_stages_as_the_configuration_says(variant):
    with pytest.raises(CheckpointError, match=r"num_encoder_blocks is 3, and depths are \[1, 1, 1, 1\]"):
        SegformerCheckpoint.from_pretrained(variant(config={"num_encoder_blocks": 3}))


def test_folders_of_checkpoints_are_named(variant, tmp_path):
    """As transformers' `Trainer` makes them."""
    for step in (500, 1000):
        variant().rename(tmp_path / f"checkpoint-{step}")
    with pytest.raises(CheckpointError, match=r"name one of the folders in it .*: checkpoint-1000, checkpoint-500$"):
        SegformerCheckpoint.from_pretrained(tmp_path)


def test_a_checkpoint_of_a_dict_of_ray_2_6_names_the_page_that_rewrites_it(tmp_path):
    (tmp_path / "dict_checkpoint.pkl").write_bytes(b"never read")
    with pytest.raises(CheckpointError, match=r"no config.json there .*; dict_checkpoint.pkl is .* docs/migration.md"):
        SegformerCheckpoint.from_pretrained(tmp_path)


def split(directory, folder="", format="safetensors"):
    """Store the weights of a directory in two shards."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, index = sorted(weights), {}
    stem, suffix = ("model", "safetensors") if format == "safetensors" else ("pytorch_model", "bin")
    for number, some in enumerate((names[:50], names[50:]), 1):
        shard = f"{stem}-0000{number}-of-00002.{suffix}"
        tensors = {name: weights[name] for name in some}
        save_file(tensors, directory / shard) if format == "safetensors" else torch.save(tensors, directory / shard)
        index |= dict.fromkeys(some, folder + shard)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.mark.parametrize("format", ["safetensors", "pickle"])
def test_shards_are_read(variant, small, format):
    directory = variant()
    split(directory, format=format)
    logits = small.logits(SegformerCheckpoint.from_pretrained(directory).get_model())
    assert torch.allclose(logits, small.logits(), atol=1e-4)


def test_shards_lie_beside_their_index(variant):
    directory = variant()
    split(directory, "../elsewhere/")
    with pytest.raises(CheckpointError, match=r"names the shard '\.\./elsewhere/model-00001"):
        SegformerCheckpoint.from_pretrained(directory)
    directory = variant()
    split(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: this shard is missing"):
        SegformerCheckpoint.from_pretrained(directory)


def test_a_pointer_of_git_lfs_is_recognised(variant):
    directory = variant()
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n")
    with pytest.raises(CheckpointError, match="a Git LFS pointer, not the weights; fetch them with `git lfs pull`"):
        SegformerCheckpoint.from_pretrained(directory)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("tf_model.h5", "TensorFlow's"),
        ("flax_model.msgpack", "Flax's"),
        ("model.fp16.safetensors", "a variant of lower precision"),
        ("adapter_model.safetensors", "a PEFT adapter"),
        ("last.ckpt", "a checkpoint of training"),
    ],
)
def test_what_is_there_in_place_of_weights_is_said(variant, name, what):
    directory = variant()
    (directory / "model.safetensors").rename(directory / name)
    with pytest.raises(CheckpointError, match=f"no model.safetensors .*{name} is {what}"):
        SegformerCheckpoint.from_pretrained(directory)


@pytest.mark.parametrize("kind", [SegformerForImageClassification, SegformerModel])
def test_an_encoder_starts_a_training_and_predicts_nothing(tmp_path, kind):
    from ray_segformer.train import Settings
    from ray_segformer.training._run import new_run  # it imports Ray Train

    config = SegformerConfig(depths=[1] * 4, hidden_sizes=[16, 32, 40, 64], decoder_hidden_size=32, num_labels=10)
    encoder = kind(config)
    encoder.save_pretrained(tmp_path / "mit")
    small_processor().save_pretrained(tmp_path / "mit")
    with pytest.raises(CheckpointError, match="is an encoder without a decoder"):
        SegformerCheckpoint.from_pretrained(tmp_path / "mit")
    with pytest.raises(ValueError, match="is an encoder without classes; name yours"):
        new_run(Settings(model=str(tmp_path / "mit")))
    model = new_run(Settings(model=str(tmp_path / "mit"), id2label={0: "road", 1: "sky", 2: "other"})).model
    expected = getattr(encoder, "segformer", encoder).state_dict()
    found = model.segformer.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.config.id2label == {0: "road", 1: "sky", 2: "other"} and model.decode_head.classifier.out_channels == 3


def test_an_encoder_that_lacks_a_tensor_is_refused(tmp_path):
    from ray_segformer.train import Settings
    from ray_segformer.training._run import new_run

    config = SegformerConfig(depths=[1] * 4, hidden_sizes=[16, 32, 40, 64], decoder_hidden_size=32)
    SegformerForImageClassification(config).save_pretrained(tmp_path / "mit")
    weights = load_file(tmp_path / "mit/model.safetensors")
    lost = next(name for name in weights if name.endswith("mlp.dense1.weight"))
    del weights[lost]
    save_file(weights, tmp_path / "mit/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="no tensor segformer"):
        new_run(Settings(model=str(tmp_path / "mit"), id2label={0: "road", 1: "sky"}))
