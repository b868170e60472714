"""Checkpoints against transformers' own loading, and everything that is refused."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pickle
import shutil
import threading
import warnings
from pathlib import Path

import pytest
import torch
from reference import Reference, assert_same_model, run_python, save_small, small_model, small_processor
from safetensors.torch import load_file, save_file
from transformers import SegformerForImageClassification, SegformerForSemanticSegmentation

import ray_segformer
from ray_segformer import (
    CheckpointError,
    SegformerCheckpoint,
    SegformerPredictor,
    SegformerPreprocessor,
    SegformerWarning,
)
from ray_segformer.air import Checkpoint
from ray_segformer.pretrained import local_directory

WEIGHTS = "model.safetensors"
FILES = ["config.json", WEIGHTS, "preprocessor_config.json"]


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


# -- ways to get one --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_from_pretrained(small_dir, small, kind):
    checkpoint = SegformerCheckpoint.from_pretrained(kind(small_dir))
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.path == str(small_dir)
    assert repr(checkpoint) == f"SegformerCheckpoint({small_dir})"
    assert_small(checkpoint, small)


def test_real_model(shared, trained):
    checkpoint = SegformerCheckpoint.from_pretrained(shared / "models/segformer-b0-camvid")
    assert_same_model(checkpoint.get_model(), trained)
    assert checkpoint.id2label == trained.model.config.id2label and len(checkpoint.id2label) == 150
    assert checkpoint.get_preprocessor().do_reduce_labels is True


def test_demo():
    if not (Path(ray_segformer.__file__).parent / "demo/checkpoint").is_dir():
        pytest.skip("the packaged checkpoint is not there")
    checkpoint = SegformerCheckpoint.demo()
    model = checkpoint.get_model()
    assert len(checkpoint.id2label) == 8 == model.config.num_labels
    with torch.no_grad():
        assert model(pixel_values=torch.zeros(1, 3, 64, 64)).logits.shape == (1, 8, 16, 16)


@pytest.mark.parametrize("processor", ["transformers", "ours", "none"])
@pytest.mark.parametrize("place", ["new", "nested", "empty", "default"])
def test_from_model(tmp_path, small, processor, place):
    path = {"new": tmp_path / "new", "nested": tmp_path / "a/b/c", "empty": tmp_path, "default": None}[place]
    given = {
        "transformers": small.processor,
        "ours": SegformerPreprocessor.from_config(small.processor.to_dict()),
        "none": None,
    }[processor]
    checkpoint = SegformerCheckpoint.from_model(small.model, given, path)
    assert path is None or checkpoint.path == str(path)
    assert sorted(os.listdir(checkpoint.path)) == FILES
    assert_same_model(checkpoint.get_model(), small)
    if processor == "none":
        assert checkpoint.get_preprocessor().to_config() == SegformerPreprocessor().to_config()
    else:
        assert_small_preprocessor(checkpoint.get_preprocessor())
    # What was written is a Hugging Face directory.
    assert_same_model(Reference(checkpoint.path).model, small)
    if place == "default":
        shutil.rmtree(checkpoint.path)
    else:
        assert not list(tmp_path.glob(".unfinished*"))


def test_from_model_leaves_the_model_alone(tmp_path):
    model = small_model().train()
    SegformerCheckpoint.from_model(model, path=tmp_path / "new").get_model()
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "processor", "message"),
    [
        ("a model", None, "model: expected a transformers SegformerForSemanticSegmentation, got str"),
        (None, None, "model: expected .* got NoneType"),
        (torch.nn.Linear(2, 2), None, "model: expected .* got Linear"),
        (SegformerForImageClassification(small_model().config), None, "model: expected .* got SegformerForImage"),
        (small_model().segformer, None, "model: expected .* got SegformerModel"),
        (small_model(), "a processor", "image_processor: expected a transformers image processor .* got str"),
        (small_model(), {"size": 512}, "image_processor: expected .* got dict"),
    ],
    ids=["text", "none", "other module", "classifier", "encoder", "processor text", "processor dict"],
)
def test_from_model_of_wrong_types(tmp_path, model, processor, message):
    with pytest.raises(TypeError, match=message):
        SegformerCheckpoint.from_model(model, processor, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_from_model_writes_over_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match=f"^{path} exists and is not an empty directory"):
            SegformerCheckpoint.from_model(small_model(), path=path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("notes.txt", "mine")]


def test_failed_from_model_leaves_nothing(tmp_path):
    model = small_model()
    model.config.decoder_hidden_size = 64  # the weights do not fit what will be written
    with pytest.raises(CheckpointError, match="do not fit"):
        SegformerCheckpoint.from_model(model, path=tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_failed_save_leaves_nothing(tmp_path):
    model = small_model()
    model.register_buffer("unsavable", torch.zeros(3, device="meta"))
    with pytest.raises(Exception, match="meta"):
        SegformerCheckpoint.from_model(model, path=tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_subfolder_of_ray_train(tmp_path, small_dir, small):
    shutil.copytree(small_dir, tmp_path / "checkpoint")
    (tmp_path / "rank_0.pt").write_bytes(b"state of the optimizer")
    assert_small(SegformerCheckpoint.from_pretrained(tmp_path), small)


@pytest.mark.parametrize("nested", [False, True])
def test_plain_ray_checkpoint(tmp_path, small_dir, small, nested):
    folder = tmp_path / "reported"
    shutil.copytree(small_dir, folder / "checkpoint" if nested else folder)
    checkpoint = SegformerCheckpoint.from_checkpoint(Checkpoint.from_directory(str(folder)))
    shutil.rmtree(folder)  # it has been read
    assert isinstance(checkpoint, SegformerCheckpoint)
    assert_small(checkpoint, small)
    with checkpoint.as_directory() as directory:
        assert_small(SegformerCheckpoint.from_pretrained(directory), small)
    assert not os.path.exists(directory)


def test_from_checkpoint_of_its_own_class(small_dir):
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    assert SegformerCheckpoint.from_checkpoint(checkpoint) is checkpoint


@pytest.mark.parametrize("wrong", ["some/dir", None, {"model": 1}], ids=str)
def test_from_checkpoint_of_a_wrong_type(wrong):
    with pytest.raises(TypeError, match=f"expected a Ray Checkpoint, got {type(wrong).__name__}"):
        SegformerCheckpoint.from_checkpoint(wrong)


def test_from_directory_as_ray_names_it(small_dir, small):
    checkpoint = SegformerCheckpoint.from_directory(str(small_dir))
    assert isinstance(checkpoint, SegformerCheckpoint)
    assert_small(checkpoint, small)


# -- what it holds ----------------------------------------------------------------------------------


def test_model_is_ready_for_inference(small_dir):
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    model = checkpoint.get_model()
    assert type(model) is SegformerForSemanticSegmentation
    assert not model.training and not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert checkpoint.get_model() is not model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by", ["transformers", "from_model"])
def test_half_weights_become_float32(tmp_path, small, dtype, by):
    model = small_model().to(dtype)
    if by == "transformers":
        save_small(tmp_path / "half", model)
    else:
        SegformerCheckpoint.from_model(model, small.processor, tmp_path / "half")
    assert load_file(tmp_path / "half" / WEIGHTS)["decode_head.classifier.weight"].dtype == dtype
    ours = SegformerCheckpoint.from_pretrained(tmp_path / "half").get_model()
    floats = {tensor.dtype for tensor in ours.state_dict().values() if tensor.is_floating_point()}
    assert floats == {torch.float32}
    expected = Reference(tmp_path / "half")
    expected.model = expected.model.float()
    assert_same_model(ours, expected)
    exact = small.model.state_dict()
    assert not all(torch.equal(tensor, exact[name]) for name, tensor in ours.state_dict().items())  # some were rounded


def test_models_share_the_weights_of_their_checkpoint(small_dir):
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    first, second = (dict(checkpoint.get_model().named_parameters()) for _ in range(2))
    shared = [name for name in first if first[name].data_ptr() == second[name].data_ptr()]
    assert shared == list(first)


def test_weights_only_pickle_file(own_dir, small):
    torch.save(load_file(own_dir / WEIGHTS), own_dir / "pytorch_model.bin")
    (own_dir / WEIGHTS).unlink()
    assert_small(SegformerCheckpoint.from_pretrained(own_dir), small)
    assert_small(SegformerCheckpoint.from_checkpoint(Checkpoint.from_directory(str(own_dir))), small)


def test_safetensors_win_over_pickle(own_dir, small):
    (own_dir / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert_small(SegformerCheckpoint.from_pretrained(own_dir), small)


def test_without_preprocessor_config(own_dir, small):
    (own_dir / "preprocessor_config.json").unlink()
    checkpoint = SegformerCheckpoint.from_pretrained(own_dir)
    assert checkpoint.get_preprocessor().to_config() == SegformerPreprocessor().to_config()
    assert_same_model(checkpoint.get_model(), small)


def test_preprocessor_options(small_dir):
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    preprocessor = checkpoint.get_preprocessor(image_column="photo", on_error="keep")
    assert (preprocessor.image_column, preprocessor.on_error) == ("photo", "keep")
    assert_small_preprocessor(preprocessor)
    kept = checkpoint.with_preprocessor_options(image_column="photo", do_reduce_labels=True)
    assert kept.get_preprocessor().image_column == "photo" and kept.get_preprocessor().do_reduce_labels
    assert kept.get_preprocessor(image_column="again").image_column == "again"
    assert checkpoint.get_preprocessor().image_column == "image"


# -- directories ------------------------------------------------------------------------------------


def test_to_directory(tmp_path, small_dir, small):
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    assert checkpoint.to_directory(str(tmp_path / "copy")) == str(tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy")) == FILES
    assert_same_model(Reference(tmp_path / "copy").model, small)
    assert_small(SegformerCheckpoint.from_pretrained(tmp_path / "copy"), small)
    made = checkpoint.to_directory()
    assert sorted(os.listdir(made)) == FILES
    shutil.rmtree(made)


def test_as_directory(own_dir, small):
    checkpoint = SegformerCheckpoint.from_pretrained(own_dir)
    with checkpoint.as_directory() as directory:
        assert directory == str(own_dir)
    shutil.rmtree(own_dir)
    with checkpoint.as_directory() as directory:
        assert directory != str(own_dir)
        assert_small(SegformerCheckpoint.from_pretrained(directory), small)
    assert not os.path.exists(directory)


# -- travel -----------------------------------------------------------------------------------------

PICKLED_WITHOUT_RAY = """
import pickle, shutil, sys
import ray, torch
from ray_segformer import SegformerCheckpoint

checkpoint = SegformerCheckpoint.from_pretrained(sys.argv[1])
shutil.rmtree(sys.argv[1])
with open(sys.argv[2], "wb") as file:
    pickle.dump(checkpoint, file)
assert not ray.is_initialized()
"""


@pytest.mark.slow
def test_pickled_without_ray(own_dir, tmp_path, small):
    run_python(PICKLED_WITHOUT_RAY, own_dir, tmp_path / "pickled")
    assert not own_dir.exists()
    assert_small(pickle.loads((tmp_path / "pickled").read_bytes()), small)


# -- what is refused --------------------------------------------------------------------------------


class Malicious:
    """Unpickled, it creates a folder."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(params=["torch", "torch legacy", "plain pickle", "beside tensors"])
def malicious(request, own_dir, tmp_path) -> tuple[Path, Path]:
    """A directory whose weights create a marker when they are unpickled, and that marker."""
    file, marker = own_dir / "pytorch_model.bin", tmp_path / "marker"
    content = Malicious(marker)
    if request.param == "beside tensors":
        torch.save({**load_file(own_dir / WEIGHTS), "extra": content}, file)
    elif request.param == "plain pickle":
        file.write_bytes(pickle.dumps({"decode_head.classifier.weight": content}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=request.param == "torch")
    (own_dir / WEIGHTS).unlink()
    return own_dir, marker


def test_malicious_file_would_run(malicious):
    directory, marker = malicious
    with contextlib.suppress(RuntimeError):  # torch unpickles, and then finds no tensors
        torch.load(directory / "pytorch_model.bin", weights_only=False)
    assert marker.is_dir()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "load",
    [
        SegformerCheckpoint.from_pretrained,
        lambda directory: SegformerCheckpoint.from_checkpoint(Checkpoint.from_directory(str(directory))),
        lambda directory: SegformerCheckpoint.from_directory(str(directory)).get_model(),
        SegformerPredictor,
        lambda directory: SegformerPredictor.from_checkpoint(Checkpoint.from_directory(str(directory))),
    ],
    ids=["from_pretrained", "plain checkpoint", "from_directory", "predictor", "predictor of checkpoint"],
)
def test_malicious_file_is_refused(malicious, load):
    directory, marker = malicious
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: refused, because it holds more than tensors"):
        load(directory)
    assert not marker.exists()


def change_config(directory: Path, **changes) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def change_weights(directory: Path, **changes) -> None:
    """Replace tensors by name (dots as two underscores); None removes one."""
    weights = load_file(directory / WEIGHTS)
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        assert name in weights
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})


def truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def pickle_instead(directory: Path, content) -> None:
    (directory / WEIGHTS).unlink()
    torch.save(content, directory / "pytorch_model.bin")


BROKEN = {
    "missing directory": (shutil.rmtree, "no such directory"),
    "empty directory": (lambda d: [file.unlink() for file in d.iterdir()], r"no config\.json .*, found \[\]"),
    "no config": (lambda d: (d / "config.json").unlink(), r"no config\.json .*, found \['model\.safetensors'"),
    "config of text": (lambda d: (d / "config.json").write_text("{no"), r"config\.json: not readable as JSON"),
    "config of bytes": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), r"config\.json: not readable as JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[1]"), r"config\.json: expected a JSON object"),
    "other model": (lambda d: change_config(d, model_type="vit"), r"config\.json: expected model_type .* 'vit'"),
    "no model type": (lambda d: change_config(d, model_type=None), r"config\.json: expected model_type .* None"),
    "classifier": (
        lambda d: change_config(d, architectures=["SegformerForImageClassification"]),
        r"config\.json: SegformerForImageClassification is an encoder without a decoder",
    ),
    "config that cannot be built": (
        lambda d: change_config(d, hidden_act="no such function"),
        r"config\.json describes no SegFormer that can be built",
    ),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), r"no model\.safetensors \(and no pytorch_model\.bin\)"),
    "truncated weights": (lambda d: truncate(d / WEIGHTS, 20000), r"model\.safetensors: not readable"),
    "empty weights": (lambda d: truncate(d / WEIGHTS, 0), r"model\.safetensors: not readable"),
    "weights of text": (lambda d: (d / WEIGHTS).write_text("x" * 5000), r"model\.safetensors: not readable"),
    "truncated pickle": (
        lambda d: (pickle_instead(d, {"a": torch.zeros(9000)}), truncate(d / "pytorch_model.bin", 3000)),
        r"pytorch_model\.bin: (not readable|refused)",
    ),
    "pickle of a list": (lambda d: pickle_instead(d, [torch.zeros(3)]), r"pytorch_model\.bin: expected tensors by"),
    "pickle of numbers": (lambda d: pickle_instead(d, {"a": 3}), r"pytorch_model\.bin: expected tensors by name"),
    "missing tensor": (
        lambda d: change_weights(d, decode_head__classifier__bias=None),
        r"do not fit config\.json: decode_head\.classifier\.bias is missing",
    ),
    "wrong shape": (
        lambda d: change_weights(d, decode_head__classifier__bias=torch.zeros(9)),
        r"do not fit config\.json: decode_head\.classifier\.bias has the shape \(9,\), expected \(7,\)",
    ),
    "many problems": (lambda d: change_config(d, decoder_hidden_size=48), r"do not fit config\.json: .*and \d+ more"),
    "preprocessor of text": (
        lambda d: (d / "preprocessor_config.json").write_text("{no"),
        r"preprocessor_config\.json: not readable as JSON",
    ),
    "preprocessor of a strange size": (
        lambda d: (d / "preprocessor_config.json").write_text('{"size": {"longest_edge": 5}}'),
        r"preprocessor_config\.json: size is",
    ),
    "preprocessor of a strange mean": (
        lambda d: (d / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5]}'),
        r"preprocessor_config\.json: ",
    ),
}


@pytest.mark.parametrize("breakage", BROKEN)
@pytest.mark.parametrize("nested", [False, True])
def test_broken_directory(tmp_path, small_dir, breakage, nested):
    folder = tmp_path / "broken"
    inner = folder / "checkpoint" if nested else folder
    shutil.copytree(small_dir, inner)
    damage, message = BROKEN[breakage]
    damage(inner)
    if not folder.exists():
        message = "no such directory"
    elif not inner.exists():
        message = r"no config\.json .*, found \[\]"
    elif nested and "no config" in message:
        message = r"no config\.json .*, found \['checkpoint'\]"
    with pytest.raises(CheckpointError, match=message) as caught:
        SegformerCheckpoint.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    if folder.exists():
        with pytest.raises(CheckpointError, match=message):
            SegformerCheckpoint.from_checkpoint(Checkpoint.from_directory(str(folder)))


def test_unexpected_tensors_do_no_harm(own_dir, small):
    weights = {**load_file(own_dir / WEIGHTS), "classifier.weight": torch.zeros(3, 3), "steps": torch.tensor(5)}
    save_file(weights, own_dir / WEIGHTS, metadata={"format": "pt"})
    assert_small(SegformerCheckpoint.from_pretrained(own_dir), small)


# -- the Hub ----------------------------------------------------------------------------------------

OFFLINE = """
import json, sys
import numpy as np
from safetensors.numpy import load_file
from ray_segformer import CheckpointError, SegformerCheckpoint, SegformerPredictor

for load in (SegformerCheckpoint.from_pretrained, SegformerPredictor):
    try:
        load("somebody/something-missing")
    except CheckpointError as error:
        assert "'somebody/something-missing' is not a local directory" in str(error), error
    else:
        raise AssertionError("loaded what is not there")

weights = load_file(sys.argv[1] + "/model.safetensors")
checkpoint = SegformerCheckpoint.from_pretrained("somebody/segformer-small")
assert checkpoint.content.weights.keys() == weights.keys()
assert all(np.array_equal(checkpoint.content.weights[name], weights[name]) for name in weights)
size = checkpoint.get_preprocessor().height, SegformerPredictor("somebody/segformer-small").get_preprocessor().height
print(json.dumps([size, checkpoint.path]))
"""


@pytest.mark.slow
def test_name_on_the_hub_from_the_cache(tmp_path, small_dir):
    cache = tmp_path / "hub/models--somebody--segformer-small"
    shutil.copytree(small_dir, cache / "snapshots/0123abcd")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0123abcd")
    output = run_python(OFFLINE, small_dir, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    heights, path = json.loads(output.splitlines()[-1])
    assert heights == [64, 64]
    assert path == str(cache / "snapshots/0123abcd")


def test_a_relative_directory(small_dir, monkeypatch):
    monkeypatch.chdir(small_dir.parent)
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir.name)
    monkeypatch.chdir("/")
    assert checkpoint.path == str(small_dir)
    with checkpoint.as_directory() as directory:
        assert directory == str(small_dir)


def test_a_subclass_of_the_model_is_one_with_a_decoder(small, tmp_path):
    class OtherLoss(SegformerForSemanticSegmentation):
        pass

    model = OtherLoss(small.model.config)
    model.load_state_dict(small.model.state_dict())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["OtherLoss"]
    content = SegformerCheckpoint.from_pretrained(tmp_path).content
    pixels = torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)
    with torch.no_grad():
        expected = small.model(pixel_values=pixels).logits.permute(0, 2, 3, 1)
    torch.testing.assert_close(content.make_runtime(runtime="eager")(pixels), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("activation", torch.nn.LeakyReLU(), r"decode_head.activation is LeakyReLU, and ReLU by its configuration"),
        ("batch_norm", torch.nn.BatchNorm2d(16, eps=0.1), r"decode_head.batch_norm is BatchNorm2d\(eps=0.1\), and "),
    ],
)
def test_a_model_in_memory_with_other_modules_is_refused(name, module, message, tmp_path):
    model = small_model()
    model.decode_head.dropout = torch.nn.Identity()  # does nothing in prediction, as Dropout
    SegformerCheckpoint.from_model(model, path=tmp_path / "right")
    setattr(model.decode_head, name, module)
    with pytest.raises(CheckpointError, match=message):
        SegformerCheckpoint.from_model(model, path=tmp_path / "wrong")
    with pytest.raises(CheckpointError, match=message):
        SegformerPredictor({"model": model, "image_processor": small_processor()})
    assert not (tmp_path / "wrong").exists()


def test_forward_hooks_are_left_out_and_said(tmp_path):
    model = small_model()
    model(pixel_values=torch.zeros(1, 3, 64, 64), output_hidden_states=True)  # transformers adds hooks of its own
    with warnings.catch_warnings():
        warnings.simplefilter("error", SegformerWarning)
        SegformerCheckpoint.from_model(model, path=tmp_path / "without")
    model.decode_head.classifier.register_forward_hook(lambda module, inputs, output: -output)
    with pytest.warns(SegformerWarning, match=r"hooks \(decode_head.classifier\) are left out"):
        SegformerCheckpoint.from_model(model, path=tmp_path / "with")


def test_a_compiled_model_is_looked_at_too(tmp_path):
    model = small_model()
    SegformerCheckpoint.from_model(torch.compile(model), path=tmp_path / "right")
    model.decode_head.activation = torch.nn.Tanh()
    with pytest.raises(CheckpointError, match=r"decode_head.activation is Tanh, and ReLU by its configuration"):
        SegformerCheckpoint.from_model(torch.compile(model), path=tmp_path / "wrong")


def test_a_preprocessor_of_another_resize_is_refused_because_no_file_can_hold_it():
    preprocessor = SegformerPreprocessor(64, resize="short-side")
    with pytest.raises(ValueError, match='resize="short-side" is no setting of a checkpoint'):
        SegformerCheckpoint.from_model(small_model(), preprocessor)
    with pytest.raises(ValueError, match='resize="short-side" is no setting of a checkpoint'):
        SegformerPredictor({"model": small_model(), "preprocessor": preprocessor})


def test_a_directory_that_had_another_model_has_this_one_alone(own_dir):
    (own_dir / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 64}}))
    (own_dir / "training.json").write_text("{}")
    checkpoint = SegformerCheckpoint.from_model(small_model(3), SegformerPreprocessor(96))
    checkpoint.to_directory(str(own_dir))
    again = SegformerCheckpoint.from_pretrained(own_dir)
    assert again.content.digest() == checkpoint.content.digest()
    assert again.get_preprocessor().size == {"height": 96, "width": 96}


@pytest.mark.parametrize(
    "change",
    [
        {"strides": [0, 2, 2, 2]},
        {"strides": [-4, 2, 2, 2]},
        {"sr_ratios": ["8", 4, 2, 1]},
        {"decoder_hidden_size": None},
        {"architectures": 5},
    ],
    ids=str,
)
def test_settings_that_describe_no_network_are_named(change, own_dir):
    config = json.loads((own_dir / "config.json").read_text())
    (own_dir / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=f"config.json.*{next(iter(change))}"):
        SegformerCheckpoint.from_pretrained(own_dir)


def test_numbers_that_the_network_does_not_use_are_in_no_doubt(own_dir):
    save_file({**load_file(own_dir / WEIGHTS), "extra": torch.full((2,), torch.nan)}, own_dir / WEIGHTS)
    assert SegformerCheckpoint.from_pretrained(own_dir).content.guesses == []


@pytest.mark.parametrize(("answer", "is_read"), [(403, False), (404, True)])
def test_a_file_that_the_hub_does_not_give_is_not_one_that_it_lacks(answer, is_read, tmp_path, monkeypatch):
    from huggingface_hub import constants

    class Hub(http.server.BaseHTTPRequestHandler):
        """Has two files, which hold an empty dict, and gives `answer` for the image settings."""

        def do_HEAD(self):
            answers = {"config.json": 200, WEIGHTS: 200, "preprocessor_config.json": answer}
            status = answers.get(self.path.rpartition("/")[2], 404)
            self.send_response(status)
            headers = {"X-Repo-Commit": "a" * 40, "ETag": '"1"', "Content-Length": "2"}
            headers |= {"X-Error-Code": "EntryNotFound"} if status == 404 else {}
            for header in headers.items():
                self.send_header(*header)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        try:
            if is_read:
                assert {*os.listdir(local_directory("some/model"))} == {"config.json", WEIGHTS}
            else:
                with pytest.raises(CheckpointError, match="loading it from the Hugging Face Hub failed"):
                    local_directory("some/model")
        finally:
            hub.shutdown()
