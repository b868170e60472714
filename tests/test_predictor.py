"""The predictor against transformers, batch by batch and inside of Ray Data."""

from __future__ import annotations

import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import ray
import torch
from PIL import Image
from ray import cloudpickle
from ray.data import ActorPoolStrategy
from reference import (
    Reference,
    agreement,
    encode,
    objects,
    picture,
    save_small,
    small_model,
    small_processor,
)
from transformers import SegformerForImageClassification
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ray_segformer import (
    CheckpointError,
    ImageError,
    Predictor,
    SegformerCheckpoint,
    SegformerPredictor,
)
from ray_segformer.air import Checkpoint, PredictorNotSerializableException
from ray_segformer.air.installed import convert_to_arrow, convert_to_numpy

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = [picture(40, 60, 1), picture(90, 50, 2), picture(33, 77, 3)]
ANNOTATIONS = [np.random.default_rng(i).integers(0, 7, array.shape[:2], np.uint8) for i, array in enumerate(PICTURES)]
for _annotation in ANNOTATIONS:
    _annotation[:9] = 255
BAD = b"no picture"


@pytest.fixture(scope="module")
def checkpoint(small_dir) -> SegformerCheckpoint:
    return SegformerCheckpoint.from_pretrained(small_dir)


@pytest.fixture(scope="module")
def predictor(checkpoint) -> SegformerPredictor:
    return SegformerPredictor(checkpoint)


@pytest.fixture(scope="module")
def masks(small) -> list[np.ndarray]:
    """The masks of PICTURES, by transformers."""
    masks = [small.mask(Image.fromarray(array)) for array in PICTURES]
    assert all(len(np.unique(mask)) > 2 for mask in masks)
    return masks


@pytest.fixture(scope="module")
def losses(small) -> list[float]:
    """The losses of PICTURES with ANNOTATIONS, by transformers."""
    return [small.loss(Image.fromarray(array), ids) for array, ids in zip(PICTURES, ANNOTATIONS, strict=True)]


def assert_masks(found, expected, dtype=np.uint8) -> None:
    found = list(found)
    assert all(mask.dtype == dtype for mask in found)
    assert agreement(found, expected) >= 0.9999


# -- against transformers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_masks(real_images, trained) -> list[np.ndarray]:
    masks = [trained.mask(Image.open(path)) for path in real_images]
    assert len(masks) == 33 and len(np.unique(np.concatenate([mask.ravel() for mask in masks]))) > 5
    return masks


@pytest.mark.parametrize("runtime", ["auto", "compile", "openvino"])
def test_real_images(shared, real_images, real_masks, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    checkpoint = SegformerCheckpoint.from_pretrained(shared / "models/segformer-b0-camvid")
    predictor = SegformerPredictor.from_checkpoint(checkpoint, runtime=runtime)
    result = predictor.predict({"image": objects(*map(str, real_images))})
    assert set(result) == {"segmentation"}
    assert_masks(result["segmentation"], real_masks)
    for path, mask, other in zip(real_images, result["segmentation"], real_masks, strict=True):
        assert (mask == other).mean() > 0.999, path.name


def test_bfloat16_of_real_images(shared, real_images, real_masks):
    predictor = SegformerPredictor(shared / "models/segformer-b0-camvid", dtype="bfloat16")
    result = predictor.predict({"image": objects(*map(str, real_images))})
    agreement_of = agreement(result["segmentation"], real_masks)
    assert 0.98 < agreement_of < 1  # it is another arithmetic, and close


def test_losses_of_real_images(shared, real_pairs, trained):
    predictor = SegformerPredictor(shared / "models/segformer-b0-camvid", annotation_column="annotation")
    images, annotations = zip(*real_pairs[::2], strict=True)
    result = predictor.predict({"image": objects(*map(str, images)), "annotation": objects(*map(str, annotations))})
    expected = [trained.loss(Image.open(image), np.array(Image.open(ids))) for image, ids in real_pairs[::2]]
    assert result["loss"].dtype == np.float32
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(("num_labels", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.uint16), (300, np.uint16)])
def test_dtype_follows_the_number_of_classes(tmp_path, num_labels, dtype):
    model = small_model(num_labels)
    with torch.no_grad():
        model.decode_head.classifier.bias[num_labels // 2 :] += 0.5  # high ids occur
    reference = Reference(save_small(tmp_path / "model", model))
    expected = [reference.mask(Image.fromarray(array)) for array in PICTURES]
    assert max(mask.max() for mask in expected) >= num_labels // 2
    result = SegformerPredictor(tmp_path / "model").predict({"image": objects(*PICTURES)})
    assert_masks(result["segmentation"], expected, dtype)


# -- batches ----------------------------------------------------------------------------------------


def test_kinds_of_cells(predictor, masks, tmp_path):
    path = tmp_path / "2.png"
    path.write_bytes(encode(PICTURES[2]))
    for cells in (
        PICTURES,
        map(Image.fromarray, PICTURES),
        map(encode, PICTURES),
        (PICTURES[0], {"bytes": encode(PICTURES[1]), "path": None}, str(path)),
    ):
        assert_masks(predictor.predict({"image": objects(*cells)})["segmentation"], masks)


@pytest.mark.parametrize("rows", [1, 3])
def test_images_of_one_size(predictor, masks, rows):
    images = np.stack([PICTURES[0]] * rows)
    for batch in (images, {"image": images}):
        result = predictor.predict(batch)
        assert isinstance(result, dict) and set(result) == {"segmentation"}
        assert result["segmentation"].shape == (rows, 40, 60) and result["segmentation"].dtype == np.uint8
        assert_masks(result["segmentation"], [masks[0]] * rows)


def test_images_of_different_sizes(predictor, masks):
    for batch in (objects(*PICTURES), {"image": objects(*PICTURES)}):
        result = predictor.predict(batch)["segmentation"]
        assert result.shape == (3,) and result.dtype == object
        assert_masks(result, masks)
    for row, array in enumerate(PICTURES):  # alone, it comes as (1, H, W)
        result = predictor.predict({"image": objects(array)})["segmentation"]
        assert result.shape == (1, *array.shape[:2])
        assert_masks(result, masks[row : row + 1])


def test_large_batch_keeps_its_order(predictor, masks):
    order = np.random.default_rng(0).integers(0, 3, 50)
    result = predictor.predict({"image": objects(*(PICTURES[i] for i in order))})
    assert_masks(result["segmentation"], [masks[i] for i in order])


def test_dataframe(predictor, masks):
    frame = pd.DataFrame({"image": PICTURES, "id": [1, 2, 3]}, index=[9, 7, 8])
    result = predictor.predict(frame)
    assert isinstance(result, pd.DataFrame) and list(result) == ["segmentation"]
    assert isinstance(result.index, pd.RangeIndex) and result.index.tolist() == [0, 1, 2]
    assert_masks(result["segmentation"], masks)
    assert_masks(predictor.predict(frame[["image"]])["segmentation"], masks)  # Ray makes a bare array of it


@pytest.mark.parametrize("kind", ["bytes", "arrays", "arrays of one size"])
def test_arrow_table(predictor, masks, kind):
    expected = masks
    if kind == "bytes":
        table = pa.table({"image": [encode(array) for array in PICTURES]})
    elif kind == "arrays":
        table = convert_to_arrow({"image": objects(*PICTURES)})
    else:
        table, expected = convert_to_arrow({"image": np.stack([PICTURES[0]] * 3)}), [masks[0]] * 3
    result = predictor.predict(table)
    assert isinstance(result, pa.Table) and result.column_names == ["segmentation"]
    assert_masks(convert_to_numpy(result)["segmentation"], expected)


@pytest.mark.parametrize("image", [PICTURES[0], np.dstack([PICTURES[0], PICTURES[0][..., 0]])])
def test_one_image_is_no_batch(predictor, image):
    with pytest.raises(ValueError, match=r"is one image or many grey ones; give a batch as \(N, H, W, 3\)"):
        predictor.predict(image)


@pytest.mark.parametrize("data", [[PICTURES[0]], "photo.jpg", None, Image.fromarray(PICTURES[0])])
def test_other_types_of_batches(predictor, data):
    with pytest.raises(RuntimeError, match="Invalid input data type"):
        predictor.predict(data)


def test_batch_without_images(predictor):
    with pytest.raises(ValueError, match=r"no column 'image', only \['photo'\]"):
        predictor.predict({"photo": objects(*PICTURES)})


@pytest.mark.parametrize("on_error", ["raise", "keep"])
@pytest.mark.parametrize("kind", ["raw", "preprocessed", "pandas"])
def test_empty_batch(checkpoint, on_error, kind):
    predictor = SegformerPredictor(checkpoint, on_error=on_error, annotation_column="annotation")
    batch = {"image": np.empty(0, object), "annotation": np.empty(0, object)}
    if kind == "preprocessed":
        batch = checkpoint.get_preprocessor(annotation_column="annotation", on_error=on_error).transform_batch(batch)
    result = predictor.predict(pd.DataFrame(batch) if kind == "pandas" else batch)
    assert set(result) == {"segmentation", "loss"} | ({"error"} if on_error == "keep" else set())
    assert all(len(result[name]) == 0 for name in result)
    if kind != "pandas":
        assert result["segmentation"].dtype == np.uint8 and result["loss"].dtype == np.float32


def test_batches_stay_as_they_are(checkpoint):
    predictor = SegformerPredictor(checkpoint, annotation_column="annotation")
    raw = {"image": np.stack([PICTURES[0]] * 2), "annotation": np.stack([ANNOTATIONS[0]] * 2)}
    preprocessed = checkpoint.get_preprocessor(annotation_column="annotation").transform_batch(raw)
    floats = {
        "pixel_values": np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32),
        "labels": np.zeros((2, 64, 96), np.int64),
    }
    for batch in (raw, preprocessed, floats):
        before = {name: array.copy() for name, array in batch.items()}
        for array in batch.values():
            array.flags.writeable = False
        predictor.predict(batch)
        predictor(batch)
        assert list(batch) == list(before)
        for name, array in batch.items():
            np.testing.assert_array_equal(array, before[name])


# -- preprocessed batches ---------------------------------------------------------------------------


@pytest.mark.parametrize("batch_format", ["numpy", "pandas", "arrow"])
def test_preprocessed_equals_raw(checkpoint, batch_format):
    batch = {"image": objects(*PICTURES), "annotation": objects(*ANNOTATIONS)}
    predictor = SegformerPredictor(checkpoint, annotation_column="annotation")
    expected = predictor.predict(batch)
    columns = checkpoint.get_preprocessor(annotation_column="annotation").transform_batch(batch)
    if batch_format == "pandas":
        columns = pd.DataFrame({name: list(values) for name, values in columns.items()})
    elif batch_format == "arrow":
        columns = convert_to_arrow(columns)
    result = SegformerPredictor(checkpoint).predict(columns)
    result = convert_to_numpy(result) if batch_format == "arrow" else result
    for mask, other in zip(result["segmentation"], expected["segmentation"], strict=True):
        np.testing.assert_array_equal(mask, other)
    np.testing.assert_array_equal(result["loss"], expected["loss"])


def test_without_resizing(tmp_path):
    reference = Reference(save_small(tmp_path / "model", processor=small_processor(do_resize=False)))
    result = SegformerPredictor(tmp_path / "model").predict({"image": objects(*PICTURES)})
    assert_masks(result["segmentation"], [reference.mask(Image.fromarray(array)) for array in PICTURES])


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (57, 43)])
def test_float_pixel_values(predictor, small, size, bare):
    inputs = small.processor(
        [Image.fromarray(array) for array in PICTURES],
        size={"height": size[0], "width": size[1]},
        return_tensors="np",
    )
    pixel_values = inputs["pixel_values"].astype(np.float32)
    with torch.no_grad():
        outputs = small.model(pixel_values=torch.from_numpy(pixel_values))
    post_process = small.processor.post_process_semantic_segmentation
    result = predictor.predict(pixel_values if bare else {"pixel_values": pixel_values})
    assert result["segmentation"].shape == (3, *size)
    assert_masks(result["segmentation"], [mask.numpy() for mask in post_process(outputs, [size] * 3)])
    if not bare:
        sizes = [array.shape[:2] for array in PICTURES]
        batch = {"pixel_values": pixel_values, "original_size": np.array(sizes, np.int32)}
        expected = [mask.numpy() for mask in post_process(outputs, sizes)]
        assert_masks(predictor.predict(batch)["segmentation"], expected)


def test_float_pixel_values_with_labels(predictor, small, losses):
    inputs = small.processor(
        [Image.fromarray(array) for array in PICTURES],
        segmentation_maps=[ids.copy() for ids in ANNOTATIONS],
        return_tensors="np",
    )
    result = predictor.predict(
        {"pixel_values": inputs["pixel_values"].astype(np.float32), "labels": np.stack(inputs["labels"])}
    )
    np.testing.assert_allclose(result["loss"], losses, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 64, 96, 3), (2, 1, 64, 96), (2, 64, 96)])
def test_pixel_values_of_wrong_shapes(predictor, shape):
    with pytest.raises(ValueError, match=r"pixel_values of a row are \(3, height, width\), not"):
        predictor.predict({"pixel_values": np.zeros(shape, np.float32)})


# -- sources ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["checkpoint", "plain checkpoint", "text", "path"])
@pytest.mark.parametrize("make", [SegformerPredictor, SegformerPredictor.from_checkpoint])
def test_sources(checkpoint, small_dir, masks, kind, make):
    source = {
        "checkpoint": checkpoint,
        "plain checkpoint": Checkpoint.from_directory(str(small_dir)),
        "text": str(small_dir),
        "path": Path(small_dir),
    }[kind]
    assert_masks(make(source).predict({"image": objects(*PICTURES)})["segmentation"], masks)


@pytest.mark.parametrize("half", [False, True])
def test_model_as_source(small_dir, half):
    model = small_model().train()
    reference = Reference(small_dir)
    reference.processor = SegformerImageProcessorPil()  # a model alone knows no other than the default
    if half:
        model = model.half()
        reference.model = small_model().half().float()
    expected = [reference.mask(Image.fromarray(array)) for array in PICTURES]
    assert_masks(SegformerPredictor(model).predict({"image": objects(*PICTURES)})["segmentation"], expected)


@pytest.fixture(scope="module")
def masks_by_default(small_dir) -> list[np.ndarray]:
    """The masks of PICTURES by the model alone, which then has the default preprocessing."""
    reference = Reference(small_dir)
    reference.processor = SegformerImageProcessorPil()
    return [reference.mask(Image.fromarray(array)) for array in PICTURES]


@pytest.mark.parametrize("kind", ["model", "checkpoint", "directory"])
def test_object_refs(checkpoint, small_dir, masks, masks_by_default, kind, ray_session):
    source = {"model": small_model(), "checkpoint": checkpoint, "directory": str(small_dir)}[kind]
    result = SegformerPredictor(ray.put(source)).predict({"image": objects(*PICTURES)})["segmentation"]
    assert_masks(result, masks_by_default if kind == "model" else masks)


@pytest.mark.parametrize(
    "source",
    [None, 3, object(), torch.nn.Linear(2, 2), small_model().segformer, SegformerForImageClassification],
    ids=["none", "number", "object", "other module", "encoder", "classifier"],
)
def test_source_of_a_wrong_type(source):
    source = source(small_model().config) if isinstance(source, type) else source
    with pytest.raises(TypeError, match=f"expected a checkpoint, .* got {type(source).__name__}"):
        SegformerPredictor(source)


def test_missing_directory(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        SegformerPredictor(tmp_path / "nowhere")


# -- losses -----------------------------------------------------------------------------------------


def predict_losses(source, annotations=ANNOTATIONS, **options) -> np.ndarray:
    predictor = SegformerPredictor(source, annotation_column="mask", **options)
    result = predictor.predict({"image": objects(*PICTURES[: len(annotations)]), "mask": objects(*annotations)})
    assert set(result) == {"segmentation", "loss"} and result["loss"].dtype == np.float32
    return result["loss"]


@pytest.mark.parametrize("reduce_labels", [True, False, None])
@pytest.mark.parametrize("configured", [True, False])
def test_losses(tmp_path, reduce_labels, configured):
    reference = Reference(save_small(tmp_path / "model", processor=small_processor(do_reduce_labels=configured)))
    effective = configured if reduce_labels is None else reduce_labels
    expected = [
        reference.loss(Image.fromarray(array), ids, do_reduce_labels=effective)
        for array, ids in zip(PICTURES, ANNOTATIONS, strict=True)
    ]
    other = reference.loss(Image.fromarray(PICTURES[0]), ANNOTATIONS[0], do_reduce_labels=not effective)
    assert not np.isclose(expected[0], other, rtol=1e-4)
    np.testing.assert_allclose(predict_losses(tmp_path / "model", reduce_labels=reduce_labels), expected, rtol=1e-5)


def test_loss_of_an_image_without_labels(checkpoint, losses):
    annotations = [ANNOTATIONS[0], np.full((90, 50), 255, np.uint8), None]
    found = predict_losses(checkpoint, annotations)
    np.testing.assert_allclose(found[0], losses[0], rtol=1e-5)
    assert np.isnan(found[1:]).all()


def test_losses_of_one_class(tmp_path):
    reference = Reference(save_small(tmp_path / "model", small_model(1)))
    annotations = [np.where(ids == 255, 255, ids % 2).astype(np.uint8) for ids in ANNOTATIONS]
    expected = [reference.loss(Image.fromarray(a), ids) for a, ids in zip(PICTURES, annotations, strict=True)]
    np.testing.assert_allclose(predict_losses(tmp_path / "model", annotations), expected, rtol=1e-5)


def test_no_loss_without_annotations(checkpoint):
    result = SegformerPredictor(checkpoint).predict({"image": objects(*PICTURES), "annotation": objects(*ANNOTATIONS)})
    assert set(result) == {"segmentation"}


# -- errors -----------------------------------------------------------------------------------------


def test_raise_names_row_and_path(predictor):
    batch = {"image": objects(PICTURES[0], BAD), "path": objects("a.png", "b.png")}
    with pytest.raises(ImageError, match=r"row 1 of the batch \(b\.png\): not an image in a known format"):
        predictor.predict(batch)


def test_raise_on_rows_that_were_kept(checkpoint, predictor):
    batch = {"image": objects(PICTURES[0], BAD), "path": objects("a.png", "b.png")}
    kept = checkpoint.get_preprocessor(on_error="keep").transform_batch(batch)
    with pytest.raises(ImageError, match=r"row 1 of the batch \(b\.png\): not an image in a known format"):
        predictor.predict(kept)


@pytest.mark.parametrize("preprocessed", [False, True])
@pytest.mark.parametrize("batch_format", ["numpy", "pandas", "arrow"])
def test_keep(checkpoint, masks, losses, preprocessed, batch_format):
    batch = {
        "image": objects(encode(PICTURES[0]), BAD, None, encode(PICTURES[2])),
        "annotation": objects(*(encode(ANNOTATIONS[i]) for i in (0, 1, 1, 2))),
        "path": objects("a", "b", "c", "d"),
    }
    options = {"on_error": "keep", "annotation_column": "annotation"}
    if preprocessed:
        batch = checkpoint.get_preprocessor(**options).transform_batch(batch)
    if batch_format == "pandas":
        batch = pd.DataFrame({name: list(values) for name, values in batch.items()})
    elif batch_format == "arrow":
        batch = convert_to_arrow(batch)
    result = SegformerPredictor(checkpoint, **options).predict(batch)
    assert type(result) is type(batch)
    if batch_format == "arrow":
        assert [result[name].null_count for name in ("segmentation", "loss", "error")] == [2, 0, 2]
        result = convert_to_numpy(result)
        nulls = objects(*(mask if mask.size else None for mask in result["segmentation"]))  # Ray makes them (0, 0)
        result = {**result, "segmentation": nulls}
    assert set(result) == {"segmentation", "loss", "error"}
    assert_masks([result["segmentation"][0], result["segmentation"][3]], [masks[0], masks[2]])
    assert result["segmentation"][1] is None and result["segmentation"][2] is None
    errors = list(result["error"])
    assert pd.isna(errors).tolist() == [True, False, False, True]
    assert "row 1 of the batch (b): not an image" in errors[1] and "row 2 of the batch (c): null" in errors[2]
    np.testing.assert_allclose(result["loss"], [losses[0], np.nan, np.nan, losses[2]], rtol=1e-5)


def test_keep_where_all_rows_fail(checkpoint):
    result = SegformerPredictor(checkpoint, on_error="keep").predict({"image": objects(BAD, None)})
    assert list(result["segmentation"]) == [None, None] and all(result["error"])


def test_keep_where_no_row_fails(checkpoint, masks):
    result = SegformerPredictor(checkpoint, on_error="keep").predict({"image": objects(*PICTURES)})
    assert_masks(result["segmentation"], masks)
    assert list(result["error"]) == [None] * 3


# -- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "jit"}, "runtime is one of .*, not 'jit'"),
        ({"dtype": "int8"}, "dtype is one of .*, not 'int8'"),
        ({"dtype": "float16", "use_gpu": False}, 'dtype="float16" is for CUDA'),
        ({"on_error": "ignore"}, "on_error is .*, not 'ignore'"),
    ],
    ids=["runtime", "dtype", "float16", "on_error"],
)
def test_bad_options(checkpoint, options, message):
    for make in (SegformerPredictor, SegformerPredictor.from_checkpoint):
        with pytest.raises(ValueError, match=message):
            make(checkpoint, **options)


def test_unknown_option(checkpoint):
    with pytest.raises(TypeError, match="image_colum"):
        SegformerPredictor(checkpoint, image_colum="photo")


@pytest.mark.parametrize("options", [{"runtime": "eager"}, {"dtype": "float32"}, {"use_gpu": False}], ids=str)
def test_options_that_change_nothing(checkpoint, masks, options):
    result = SegformerPredictor(checkpoint, **options).predict({"image": objects(*PICTURES)})
    assert_masks(result["segmentation"], masks)


def test_confidence(small, checkpoint):
    predictor = SegformerPredictor(checkpoint, confidence=True, on_error="keep")
    result = predictor.predict({"image": objects(*PICTURES, BAD)})
    assert result["segmentation"][3] is None and result["confidence"][3] is None
    for array, mask, confidence in zip(PICTURES, result["segmentation"], result["confidence"], strict=False):
        inputs = small.processor(Image.fromarray(array), return_tensors="pt")
        with torch.no_grad():
            logits = small.model(**inputs).logits
        resized = torch.nn.functional.interpolate(logits, size=array.shape[:2], mode="bilinear", align_corners=False)
        expected, classes = resized[0].softmax(dim=0).max(dim=0)
        assert confidence.dtype == np.float32
        np.testing.assert_allclose(confidence, expected.numpy(), atol=1e-4)
        assert (mask == classes.numpy()).mean() > 0.999


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(checkpoint):
    with pytest.raises(RuntimeError, match="this process sees no CUDA device"):
        SegformerPredictor(checkpoint, use_gpu=True)


def test_is_a_predictor(predictor):
    assert isinstance(predictor, Predictor)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_instances_are_not_pickled(predictor, pickler):
    with pytest.raises(PredictorNotSerializableException):
        pickler.dumps(predictor)
    assert pickler.loads(pickler.dumps(SegformerPredictor)) is SegformerPredictor


# -- the call of map_batches ------------------------------------------------------------------------


@pytest.mark.parametrize("batch_format", ["numpy", "pandas", "arrow"])
@pytest.mark.parametrize("preprocessed", [False, True])
def test_call_keeps_other_columns(checkpoint, masks, batch_format, preprocessed):
    batch = {"photo": objects(*map(encode, PICTURES)), "id": np.array([7, 8, 9]), "tag": objects("x", "y", "z")}
    if preprocessed:
        batch = checkpoint.get_preprocessor(image_column="photo").transform_batch(batch)
    if batch_format == "pandas":
        batch = pd.DataFrame({name: list(values) for name, values in batch.items()}, index=[5, 3, 4])
    elif batch_format == "arrow":
        batch = convert_to_arrow(batch)
    result = SegformerPredictor(checkpoint, image_column="photo")(batch)
    assert type(result) is type(batch)
    result = convert_to_numpy(result) if batch_format == "arrow" else result
    assert set(result) == {"segmentation", "id", "tag"}
    assert (list(result["id"]), list(result["tag"])) == ([7, 8, 9], ["x", "y", "z"])
    assert_masks(result["segmentation"], masks)


# -- inside of Ray Data -----------------------------------------------------------------------------

ROWS = 12
FAILED = {0, 1, 2, 7}  # of batches of three, the first fails as a whole


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Pictures of different sizes and, among them, files that are none."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(ROWS):
        (folder / f"{i:02}.png").write_bytes(BAD if i in FAILED else encode(picture(40 + i, 60, i)))
    return [str(folder / f"{i:02}.png") for i in range(ROWS)]


@pytest.fixture(scope="module")
def file_masks(files, small) -> list[np.ndarray | None]:
    return [None if i in FAILED else small.mask(Image.open(path)) for i, path in enumerate(files)]


def dataset(files: list[str], **columns) -> ray.data.Dataset:
    """One row for each file, all in one block."""
    items = [{"image": path, "id": i, **{k: v[i] for k, v in columns.items()}} for i, path in enumerate(files)]
    return ray.data.from_items(items, override_num_blocks=1)


def predict(data, source, batch_size: int = 3, batch_format: str = "numpy", **options) -> ray.data.Dataset:
    return data.map_batches(
        SegformerPredictor,
        fn_constructor_args=(source,),
        fn_constructor_kwargs=options,
        compute=ActorPoolStrategy(min_size=1, max_size=5),
        batch_size=batch_size,
        batch_format=batch_format,
    )


def assert_rows(rows, files, file_masks) -> None:
    rows = sorted(rows, key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(ROWS))
    for row, path, mask in zip(rows, files, file_masks, strict=True):
        if mask is None:
            assert row["segmentation"] is None
            assert f"({path}): not an image in a known format" in row["error"]
        else:
            assert row["error"] is None
    good = [row["segmentation"] for row in rows if row["error"] is None]
    assert_masks(good, [mask for mask in file_masks if mask is not None])


@pytest.mark.parametrize(
    ("batch_format", "batch_size", "preprocessed"),
    [
        ("numpy", 1, False),
        ("numpy", 3, True),
        ("numpy", 100, False),
        ("pandas", 1, True),
        ("pandas", 3, False),
        ("pandas", 100, True),
        ("pyarrow", 1, False),
        ("pyarrow", 3, True),
        ("pyarrow", 100, False),
    ],
)
def test_map_batches(checkpoint, files, file_masks, batch_format, batch_size, preprocessed, ray_session):
    data = dataset(files, tag=[f"row {i}" for i in range(ROWS)])
    if preprocessed:
        data = checkpoint.get_preprocessor(on_error="keep").transform(data)
    rows = predict(data, checkpoint, batch_size, batch_format, on_error="keep").take_all()
    assert_rows(rows, files, file_masks)
    assert {(row["id"], row["tag"]) for row in rows} == {(i, f"row {i}") for i in range(ROWS)}
    assert set(rows[0]) == {"id", "tag", "segmentation", "error"}


def test_map_batches_with_losses(checkpoint, small, files, ray_session):
    good = [path for i, path in enumerate(files) if i not in FAILED]
    arrays = [np.asarray(Image.open(path)) for path in good]
    annotations = [array[..., 0] % 7 for array in arrays]
    rows = predict(
        dataset(good, annotation=list(map(encode, annotations))),
        checkpoint,
        batch_format="pyarrow",
        annotation_column="annotation",
    ).take_all()
    expected = [small.loss(Image.fromarray(array), ids) for array, ids in zip(arrays, annotations, strict=True)]
    rows.sort(key=lambda row: row["id"])
    np.testing.assert_allclose([row["loss"] for row in rows], expected, rtol=1e-5)
    assert [row["annotation"] for row in rows] == list(map(encode, annotations))


def test_map_batches_with_a_model_in_the_object_store(masks_by_default, ray_session):
    data = ray.data.from_items([{"image": array, "id": i} for i, array in enumerate(PICTURES)])
    rows = predict(data, ray.put(small_model()), batch_size=2).take_all()
    rows.sort(key=lambda row: row["id"])
    assert_masks([row["segmentation"] for row in rows], masks_by_default)


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_actors_use_their_cpus_and_keep_their_memory(checkpoint, files, ray_session, num_cpus):
    pictures = {"pixel_values": np.zeros((2, 3, 640, 640), np.uint8)}  # whose tensors are megabytes

    class Witness(SegformerPredictor):
        """Tells what its process is like."""

        def __call__(self, batch):
            faults = []
            for _ in range(20):
                self.predict(pictures)
                faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
            return {
                "threads": [torch.get_num_threads()],
                "transformers": ["transformers" in sys.modules],
                "faults": [faults[-1] - faults[-2]],
            }

    predictions = dataset(files[:2]).map_batches(
        Witness, fn_constructor_args=(checkpoint,), num_cpus=num_cpus, compute=ActorPoolStrategy(size=1)
    )
    (row,) = predictions.take_all()
    assert row["threads"] == num_cpus
    assert not row["transformers"]
    assert row["faults"] < 100


@pytest.mark.parametrize("one_size", [False, True])
def test_failed_batches_can_be_written_and_mixed(tmp_path, checkpoint, small, files, file_masks, one_size, ray_session):
    if one_size:  # then Ray would choose another type of column where no row failed
        folder = tmp_path / "files"
        folder.mkdir()
        paths = [folder / f"{i}.png" for i in range(ROWS)]
        for i, path in enumerate(paths):
            path.write_bytes(BAD if i in FAILED else encode(picture(40, 60, i)))
        files = list(map(str, paths))
        file_masks = [None if i in FAILED else small.mask(Image.open(path)) for i, path in enumerate(files)]
    predictions = predict(dataset(files), checkpoint, on_error="keep").materialize()
    mixed = predictions.map_batches(lambda table: table, batch_size=ROWS, batch_format="pyarrow")
    assert_rows(mixed.take_all(), files, file_masks)
    as_numpy = predictions.take_batch(ROWS)  # where Ray makes empty arrays of nulls
    assert [mask.shape == (0, 0) for mask in as_numpy["segmentation"]] == [i in FAILED for i in as_numpy["id"]]
    predictions.write_parquet(str(tmp_path / "masks"))
    assert_rows(ray.data.read_parquet(str(tmp_path / "masks")).take_all(), files, file_masks)


def test_raise_inside_of_ray_names_the_file(checkpoint, files, ray_session):
    with pytest.raises(Exception, match="known format") as caught:
        predict(dataset(files[3:9]), checkpoint).materialize()
    assert files[7] in str(caught.value)
