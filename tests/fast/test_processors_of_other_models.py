"""Image settings of other classes of transformers: what equals transformers' own processor, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from reference import picture
from transformers import AutoImageProcessor

from ray_segformer import CheckpointError, SegformerCheckpoint

SETTINGS = {
    **{"do_resize": True, "size": {"height": 71, "width": 93}, "resample": 3, "do_rescale": True},
    **{"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
}
SIZES = [{"height": 71, "width": 93}, {"shortest_edge": 64}, {"shortest_edge": 64, "longest_edge": 80}]


@pytest.fixture
def model(small_dir, tmp_path):
    """Makes the small model with other image settings, in one file or the other."""

    def make(settings, name="preprocessor_config.json"):
        directory = tmp_path / "model"
        shutil.copytree(small_dir, directory, dirs_exist_ok=True)
        (directory / "preprocessor_config.json").unlink()
        (directory / name).write_text(json.dumps(settings))
        return directory

    return make


def assert_like_transformers(directory):
    reference = AutoImageProcessor.from_pretrained(directory)
    preprocessor = SegformerCheckpoint.from_pretrained(directory).get_preprocessor()
    for image in (picture(101, 150, 0), picture(150, 101, 1)):
        (pixel_values,) = preprocessor.preprocess({"image": image[None]})["pixel_values"]
        expected = torch.as_tensor(reference(Image.fromarray(image), return_tensors="pt").pixel_values[0])
        assert torch.allclose(preprocessor.normalize(torch.from_numpy(pixel_values)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["ViTImageProcessor", "SiglipImageProcessor", "PvtImageProcessor", "OneFormerImageProcessor"]
)
def test_classes_that_do_the_same(model, kind):
    for size in SIZES:
        assert_like_transformers(model({**SETTINGS, "size": size, "image_processor_type": kind}))


@pytest.mark.parametrize("kind", ["BeitImageProcessor", "CLIPImageProcessor", "DeiTImageProcessorFast"])
def test_classes_that_crop_must_say_that_they_do_not(model, kind):
    settings = {**SETTINGS, "image_processor_type": kind}
    with pytest.raises(CheckpointError, match=r"the file does not say do_center_crop; add them"):
        SegformerCheckpoint.from_pretrained(model(settings))
    for size in SIZES:
        assert_like_transformers(model({**settings, "size": size, "do_center_crop": False}))


def test_one_number_is_a_square_or_the_short_side_by_the_class(model):
    settings = {**SETTINGS, "size": 64, "image_processor_type": "CLIPImageProcessor", "do_center_crop": False}
    with pytest.raises(CheckpointError, match=r"the file does not say default_to_square; add them"):
        SegformerCheckpoint.from_pretrained(model(settings))


@pytest.mark.parametrize(
    "kind", ["MobileViTImageProcessor", "ConvNextFeatureExtractor", "LevitImageProcessor", "Mask2FormerImageProcessor"]
)
def test_classes_that_do_other_things_are_refused(model, kind):
    settings = {**SETTINGS, "image_processor_type": kind, "do_center_crop": False, "default_to_square": True}
    with pytest.raises(CheckpointError, match=f"{kind} does other things to an image than SegformerImageProcessor"):
        SegformerCheckpoint.from_pretrained(model(settings))
    assert_like_transformers(model({**settings, "image_processor_type": "SegformerImageProcessor"}))


def test_settings_in_processor_config(model):
    """They come before those of the other file, as in transformers 5."""
    nested = {"image_processor": {**SETTINGS, "image_processor_type": "SegformerImageProcessor"}}
    directory = model(nested, "processor_config.json")
    assert_like_transformers(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps({**SETTINGS, "size": {"height": 32, "width": 32}}))
    assert_like_transformers(directory)
    preprocessor = SegformerCheckpoint.from_pretrained(directory).get_preprocessor()
    assert (preprocessor.height, preprocessor.width) == (71, 93)
    saved = SegformerCheckpoint.from_pretrained(directory).to_directory(str(directory.parent / "saved"))
    assert SegformerCheckpoint.from_pretrained(saved).get_preprocessor().height == 71
