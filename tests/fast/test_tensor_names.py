"""Files of weights with other names than the Hub's, compared with the model that transformers loads."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from reference import small_model
from safetensors.torch import load_file, save_file
from transformers import SegformerForSemanticSegmentation

from ray_segformer import CheckpointError, SegformerCheckpoint, SegformerPredictor
from ray_segformer._guesses import SegformerWarning


@pytest.fixture
def model(small_dir, tmp_path):
    """Makes the small model with weights by a function of its own, in the file of safetensors or of torch."""

    def make(change, name="model.safetensors"):
        directory = tmp_path / "model"
        shutil.copytree(small_dir, directory, dirs_exist_ok=True)
        weights = change(load_file(small_dir / "model.safetensors"))
        (directory / "model.safetensors").unlink()
        if name.endswith(".bin"):
            torch.save(weights, directory / name)
        else:
            save_file(weights, directory / name, metadata={"format": "pt"})
        return directory

    return make


def prefixed(prefix, weights, factor=1.0):
    return {prefix + name: tensor * factor for name, tensor in weights.items()}


def test_the_names_of_transformers_5_in_memory(model, small, small_dir):
    """As `torch.save(model.state_dict())` and other tools than `save_pretrained` store them."""
    in_memory = SegformerForSemanticSegmentation.from_pretrained(small_dir).state_dict()
    for prefix in ("", "module."):
        weights = prefixed(prefix, in_memory)
        for name in ("model.safetensors", "pytorch_model.bin"):
            checkpoint = SegformerCheckpoint.from_pretrained(model(lambda _, own=weights: own, name))
            assert torch.equal(small.logits(checkpoint.get_model()), small.logits())


def test_parameters_are_tensors(model, small):
    directory = model(
        lambda weights: {n: torch.nn.Parameter(w.float()) for n, w in weights.items()}, "pytorch_model.bin"
    )
    assert torch.equal(small.logits(SegformerCheckpoint.from_pretrained(directory).get_model()), small.logits())


@pytest.mark.parametrize("copy", ["ema.", "segformer_ema.", "a."])
def test_names_without_a_prefix_are_the_models(model, small, copy):
    directory = model(lambda weights: {**weights, **prefixed(copy, weights, 0.5)})
    assert torch.equal(small.logits(SegformerCheckpoint.from_pretrained(directory).get_model()), small.logits())


def test_several_copies_are_refused(model):
    directory = model(lambda weights: {**prefixed("student.", weights), **prefixed("teacher.", weights)})
    with pytest.raises(
        CheckpointError, match=r"safetensors: holds 2 copies of the model, student\.\*, teacher\.\*; save"
    ):
        SegformerCheckpoint.from_pretrained(directory)


def unmerged(weights):
    """As PEFT names a model with LoRA for the queries: the file has no weights of the model's own names for them."""
    changed = {}
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        changed[f"{module}.base_layer.{kind}" if module.endswith(".query") else name] = tensor
    return prefixed("base_model.model.", {**changed, **adapters(weights)})


def adapters(weights):
    queries = [name.removesuffix(".weight") for name in weights if name.endswith(".query.weight")]
    return {f"{name}.lora_{kind}.default.weight": torch.ones(2, 2) for name in queries for kind in "AB"}


def with_saved_head(weights):
    return {
        name.replace("decode_head.", "decode_head.modules_to_save.default."): each for name, each in weights.items()
    }


@pytest.mark.parametrize(
    "change",
    [unmerged, lambda weights: {**weights, **adapters(weights)}, adapters, with_saved_head],
    ids=["unmerged", "beside the model", "alone", "head"],
)
def test_adapters_that_are_not_merged_are_refused(model, change):
    with pytest.raises(CheckpointError, match=r"holds an adapter of PEFT, .* not merged .*; save what .*merge_and_unl"):
        SegformerCheckpoint.from_pretrained(model(change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {"a": torch.zeros(2)}},
            "expected tensors by name, but 'state_dict' is dict; save that one alone",
        ),
        ({3: torch.zeros(2)}, "expected tensors by name, but 3 is Tensor"),
        ([torch.zeros(2)], "expected tensors by name, not list"),
    ],
    ids=["nested", "number", "list"],
)
def test_files_of_something_else(model, content, message):
    with pytest.raises(CheckpointError, match=f"pytorch_model.bin: {message}"):
        SegformerCheckpoint.from_pretrained(model(lambda _: content, "pytorch_model.bin"))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.bf16.safetensors", "a variant of lower precision"),
        ("model-00001-of-00001.safetensors", "a shard without its index"),
        ("best.safetensors", "a file of tensors of another name"),
    ],
)
def test_what_is_there_in_place_of_weights_is_said(model, name, what):
    directory = model(dict, name)
    (directory / "optimizer.pt").write_bytes(b"of a training")
    with pytest.raises(CheckpointError, match=f"no model.safetensors .*; {name} is {what}"):
        SegformerCheckpoint.from_pretrained(directory)


def test_names_of_classes_that_the_model_does_not_have_are_said(model):
    directory = model(dict)
    config = json.loads((directory / "config.json").read_text())
    names = {str(number): f"class {number}" for number in range(1, 8)}  # counted from 1
    (directory / "config.json").write_text(json.dumps({**config, "id2label": names}))
    with pytest.warns(
        SegformerWarning, match=r"names the class ids 7, but those of its 7 classes are 0 to 6"
    ) as caught:
        checkpoint = SegformerCheckpoint.from_pretrained(directory)
    assert [each.message.code for each in caught] == ["class-ids-not-in-model"]
    assert checkpoint.id2label == {0: "LABEL_0", **{number: f"class {number}" for number in range(1, 7)}}


def test_lists_for_more_stages_than_there_are(tmp_path):
    """transformers ignores what is too much; its defaults are for four stages."""
    lists = {"depths": [1, 1, 1], "hidden_sizes": [16, 32, 40], "num_attention_heads": [1, 2, 4]}
    reference = small_model(**lists, num_encoder_blocks=3)
    assert len(reference.config.strides) == len(reference.config.sr_ratios) == 4
    reference.save_pretrained(tmp_path)
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8).numpy()
    predictor = SegformerPredictor(str(tmp_path), resize="none")
    pixels = predictor._images.normalize(torch.from_numpy(image.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(reference.eval()(pixels).logits, (64, 96), mode="bilinear")
    assert (predictor.predict(image)["segmentation"] == logits.argmax(1).numpy()).mean() > 0.999
    config = json.loads((tmp_path / "config.json").read_text())
    for name, wrong in (("strides", [4, 2]), ("hidden_sizes", None), ("depths", 3)):
        (tmp_path / "config.json").write_text(json.dumps({**config, name: wrong}))
        with pytest.raises(CheckpointError, match=f"{name} has a number for each stage"):
            SegformerCheckpoint.from_pretrained(tmp_path)
