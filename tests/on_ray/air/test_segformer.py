"""SegFormer through Ray from end to end, on every supported Ray, against transformers' own masks."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from PIL import Image
from ray import cloudpickle
from ray.data import ActorPoolStrategy

from ray_segformer import (
    BatchMapper,
    BatchPredictor,
    SegformerCheckpoint,
    SegformerPredictor,
    SegformerPreprocessor,
)
from ray_segformer.air import Checkpoint, installed
from ray_segformer.architectures import ARCHITECTURES

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

SHARED = Path(__file__).resolve().parents[4] / "shared"
PHOTOS = ["photos/sklearn-flower.jpg", "photos/skimage-rocket.jpg", "camvid/test/images"]

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder shared/ beside the repository")
needs_dict_checkpoints = pytest.mark.skipif(not installed.HAS_AIR, reason="dict checkpoints ended with Ray 2.6")


def load_model(directory):
    from transformers import SegformerForSemanticSegmentation

    return SegformerForSemanticSegmentation.from_pretrained(directory).eval()


def load_processor(directory):
    """Transformers' image processor that resizes with Pillow, which older transformers call the only one."""
    try:
        from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil as Processor
    except ImportError:
        from transformers import SegformerImageProcessor as Processor
    return Processor.from_pretrained(directory)


@pytest.fixture(scope="module")
def model_dir():
    return SHARED / "models/segformer-b0-camvid"


@pytest.fixture
def model(model_dir):
    """A fresh one: transformers' hooks keep a model that has run from being pickled."""
    return load_model(model_dir)


@pytest.fixture(scope="module")
def processor(model_dir):
    return load_processor(model_dir)


@pytest.fixture(scope="module")
def photos():
    """Three photos of different sizes."""
    found = [SHARED / "data" / photo for photo in PHOTOS]
    return [str(sorted(path.iterdir())[0] if path.is_dir() else path) for path in found]


@pytest.fixture(scope="module")
def expected(model_dir, processor, photos):
    """Transformers' masks by path."""
    import torch

    model, masks = load_model(model_dir), {}
    for path in photos:
        image = Image.open(path).convert("RGB")
        with torch.no_grad():
            outputs = model(**processor(image, return_tensors="pt"))
        size = (image.height, image.width)
        masks[path] = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0].numpy()
    return masks


@pytest.fixture(scope="module")
def check(expected):
    """Compares masks by path with transformers': at most one pixel in 10,000 may differ, by rounding."""

    def compare(masks):
        assert {path.removeprefix("file://") for path in masks} == set(expected)
        pairs = [(np.asarray(mask), expected[path.removeprefix("file://")]) for path, mask in masks.items()]
        assert all(mask.shape == other.shape and mask.dtype == np.uint8 for mask, other in pairs)
        equal = sum((mask == other).sum() for mask, other in pairs)
        assert equal >= 0.9999 * sum(other.size for _, other in pairs)

    return compare


@pytest.fixture
def paths(photos):
    """A dataset of the photos' paths, twice: to be read, and to be kept."""
    return ray.data.from_items([{"image": path, "path": path} for path in photos])


def masks_of(dataset):
    return {row["path"]: row["segmentation"] for row in dataset.take_all()}


def test_a_batch_predictor_scores_photos(model_dir, photos, check):
    predictor = BatchPredictor.from_checkpoint(SegformerCheckpoint.from_pretrained(model_dir), SegformerPredictor)
    dataset = ray.data.read_images(photos, include_paths=True)
    check(masks_of(predictor.predict(dataset, batch_size=2, max_scoring_workers=1, keep_columns=["path"])))


def test_a_dataframe_keeps_its_index(model_dir, photos, check):
    frame = pd.DataFrame({"image": photos, "path": photos}, index=[7, 3, 5]).sort_index()
    predictor = SegformerPredictor.from_checkpoint(SegformerCheckpoint.from_pretrained(model_dir))
    frame["mask"] = predictor.predict(frame)["segmentation"]  # pandas matches rows by the index
    check(dict(zip(frame["path"], frame["mask"], strict=True)))
    assert predictor(frame.drop(columns="mask")).index.tolist() == [3, 5, 7]


@pytest.mark.parametrize("subfolder", ["", "checkpoint"])
def test_a_plain_checkpoint_of_a_directory(model_dir, tmp_path, photos, check, subfolder):
    shutil.copytree(model_dir, tmp_path / "model" / subfolder)
    predictor = SegformerPredictor.from_checkpoint(Checkpoint.from_directory(str(tmp_path / "model")))
    shutil.rmtree(tmp_path / "model")
    masks = predictor.predict({"image": np.array(photos, object)})["segmentation"]
    check(dict(zip(photos, masks, strict=True)))


def test_a_plain_checkpoint_of_a_directory_that_is_gone_when_workers_load_it(model_dir, tmp_path, paths, check):
    shutil.copytree(model_dir, tmp_path / "model" / "checkpoint")
    checkpoint = Checkpoint.from_directory(str(tmp_path / "model"))
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor)
    dataset = predictor.predict(paths, batch_size=2, max_scoring_workers=1, keep_columns=["path"])
    shutil.rmtree(tmp_path / "model")
    check(masks_of(dataset))


def test_the_predictor_is_a_map_batches_class(model_dir, paths, check):
    dataset = paths.map_batches(
        SegformerPredictor,
        fn_constructor_args=(SegformerCheckpoint.from_pretrained(model_dir),),
        compute=ActorPoolStrategy(min_size=1, max_size=1),
        batch_size=2,
    )
    rows = dataset.take_all()
    check({row["path"]: row["segmentation"] for row in rows})
    assert set(rows[0]) == {"path", "segmentation"}  # the image is used up, other columns stay


def test_plain_actors_share_a_model_from_the_object_store(model, photos, check):
    @ray.remote
    class Scorer:
        def __init__(self, source):
            self.predictor = SegformerPredictor(source[0] if isinstance(source, list) else source)

        def score(self, path):
            return self.predictor.predict({"image": np.array([path], object)})["segmentation"][0]

    reference = ray.put(model)
    by_value, by_reference = Scorer.remote(reference), Scorer.remote([reference])
    for scorer in by_value, by_reference:
        check(dict(zip(photos, ray.get([scorer.score.remote(path) for path in photos]), strict=True)))


def test_an_unreadable_image_is_kept_with_its_error(model_dir, photos, check, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    checkpoint = SegformerCheckpoint.from_pretrained(model_dir)
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, on_error="keep")
    own_stage = checkpoint.get_preprocessor(on_error="keep")
    if installed.HAS_AIR:  # Ray 2.6 knows the option only of the stage that it is given
        predictor.set_preprocessor(own_stage)
    else:
        assert predictor.get_preprocessor().on_error == own_stage.on_error == "keep"
    dataset = ray.data.from_items([{"image": path, "path": path} for path in [*photos, str(broken)]])
    rows = predictor.predict(dataset, batch_size=4, max_scoring_workers=1, keep_columns=["path"]).take_all()

    failed = [row for row in rows if row["path"] == str(broken)]
    assert len(failed) == 1
    assert "broken.jpg" in failed[0]["error"]
    mask = failed[0]["segmentation"]
    assert mask is None if installed.NULL_TENSOR is None else np.shape(mask) == np.shape(installed.NULL_TENSOR)
    good = [row for row in rows if row["path"] != str(broken)]
    assert not any(row["error"] for row in good)
    check({row["path"]: row["segmentation"] for row in good})


@needs_dict_checkpoints
def test_a_dict_checkpoint_scores_through_rays_own_batch_predictor(model, processor, photos, check):
    from ray.train.batch_predictor import BatchPredictor as RaysBatchPredictor

    checkpoint = Checkpoint.from_dict({"model": model, "feature_extractor": processor})
    predictor = RaysBatchPredictor(checkpoint=checkpoint, predictor_cls=SegformerPredictor)
    dataset = ray.data.read_images(photos, include_paths=True)
    check(masks_of(predictor.predict(dataset, batch_size=2, max_scoring_workers=1, keep_columns=["path"])))


@needs_dict_checkpoints
@pytest.mark.parametrize("key", ["feature_extractor", "image_processor", "preprocessor"])
def test_a_dict_checkpoint_may_call_the_image_processor_by_any_of_its_names(model, processor, photos, check, key):
    predictor = SegformerPredictor.from_checkpoint(Checkpoint.from_dict({"model": model, key: processor}))
    masks = predictor.predict({"image": np.array(photos, object)})["segmentation"]
    check(dict(zip(photos, masks, strict=True)))


@needs_dict_checkpoints
def test_a_dict_checkpoint_may_hold_a_batch_mapper_of_the_users_own(model, processor, photos):
    def preprocess(batch):
        images = [Image.open(path).convert("RGB") for path in batch["image"]]
        return {"pixel_values": processor(images, return_tensors="np")["pixel_values"]}

    data = {"model": model, "preprocessor": BatchMapper(preprocess, batch_format="numpy")}
    batch = {"image": np.array(photos, object), "path": np.array(photos, object)}
    masks = SegformerPredictor.from_checkpoint(Checkpoint.from_dict(data)).predict(batch)["segmentation"]
    with torch.no_grad():
        outputs = model(pixel_values=torch.from_numpy(preprocess(batch)["pixel_values"]))
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(512, 512)] * len(photos))
    for mask, reference in zip(masks, expected, strict=True):
        assert (mask == reference.numpy()).mean() >= 0.9999


@needs_dict_checkpoints
def test_a_dict_checkpoint_is_normalised_as_its_preprocessor_says(model):
    checkpoint = Checkpoint.from_dict({"model": model})
    checkpoint.set_preprocessor(SegformerPreprocessor(256, image_mean=(0.5, 0.25, 0.125)))
    preprocessor = SegformerPredictor.from_checkpoint(checkpoint).get_preprocessor()
    assert preprocessor.image_mean == (0.5, 0.25, 0.125)
    assert preprocessor.height == 256


@needs_dict_checkpoints
def test_a_dict_checkpoint_with_our_preprocessor_has_a_cpu_stage(model, model_dir, paths, check):
    preprocessor = SegformerCheckpoint.from_pretrained(model_dir).get_preprocessor()
    checkpoint = Checkpoint.from_dict({"model": model})
    checkpoint.set_preprocessor(preprocessor)
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor)
    assert predictor.get_preprocessor() is preprocessor
    check(masks_of(predictor.predict(paths, batch_size=2, max_scoring_workers=1, keep_columns=["path"])))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The directory of a small random model, images of three sizes, and transformers' masks of them."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    shape = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32}
    model = SegformerForSemanticSegmentation(SegformerConfig(**shape, num_labels=7)).eval()
    with torch.no_grad():
        model.decode_head.classifier.weight *= 30  # logits as far apart as a trained model's
    directory = tmp_path_factory.mktemp("small")
    model.save_pretrained(directory)
    settings = {"size": {"height": 64, "width": 96}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (directory / "preprocessor_config.json").write_text(json.dumps({**settings, "do_resize": True}))
    processor, rng, images, masks = load_processor(directory), np.random.default_rng(1), [], []
    for height, width in ((80, 100), (64, 96), (50, 31)):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        with torch.no_grad():
            outputs = model(**processor(image, return_tensors="pt"))
        sizes = [(height, width)]
        masks.append(processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0].numpy())
        images.append(np.asarray(image))
    assert len(np.unique(np.concatenate([mask.ravel() for mask in masks]))) > 2  # or the masks would say nothing
    return directory, images, masks


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_makes_transformers_masks_in_the_order_of_the_images(small, name):
    directory, images, expected = small
    checkpoint = SegformerCheckpoint.from_pretrained(directory)
    masks, timeline = ARCHITECTURES[name](images, checkpoint, workers=2, batch_size=2)
    pairs = list(zip(masks, expected, strict=True))
    assert all(mask.shape == other.shape and mask.dtype == np.uint8 for mask, other in pairs)
    equal = sum((mask == other).sum() for mask, other in pairs)
    assert equal >= 0.9995 * sum(mask.size for mask in expected)
    for kind in ("preprocess", "predict"):
        assert sorted(i for event in timeline.events if event.kind == kind for i in event.images) == [0, 1, 2]
    assert timeline.loads >= 1
    assert all(timeline.start <= event.start <= event.end <= timeline.end for event in timeline.events)


@pytest.mark.skipif(not installed.HAS_AIR, reason="PredictorDeployment ended with Ray 2.6")
def test_a_predictor_deployment_of_ray_serve(small):
    """By its handle: over HTTP, Serve of Ray 2.6.3 fails on Python 3.11, where asyncio does not wait for ObjectRefs."""
    from ray import serve
    from ray.serve import PredictorDeployment

    directory, images, expected = small
    checkpoint = SegformerCheckpoint.from_pretrained(directory)
    deployment = PredictorDeployment.options(name="segformer").bind(SegformerPredictor, checkpoint)
    handle = serve.run(deployment, port=0)
    try:
        for image, mask in zip(images, expected, strict=True):
            found = ray.get(handle.predict.remote(image))
            assert set(found) == {"segmentation"} and found["segmentation"].shape == mask.shape
            assert (found["segmentation"] == mask).mean() >= 0.9995
    finally:
        serve.shutdown()
