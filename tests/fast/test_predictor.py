"""The predictor against transformers, batch by batch. Inside of Ray Data: tests/on_ray/test_predictor_on_ray.py."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from ray import cloudpickle
from reference import (
    Reference,
    agreement,
    encode,
    need_openvino,
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
from ray_segformer.network import Groups

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
def real_masks(real_sample, trained) -> list[np.ndarray]:
    masks = [trained.mask(Image.open(path)) for path in real_sample]
    assert len(masks) == 5 and len(np.unique(np.concatenate([mask.ravel() for mask in masks]))) > 5
    return masks


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["auto", "openvino"])
def test_real_images(shared, real_sample, real_masks, runtime):
    """Runtime "compile" is tested in tests/on_ray/test_compile.py."""
    if runtime == "openvino":
        need_openvino()
    checkpoint = SegformerCheckpoint.from_pretrained(shared / "models/segformer-b0-camvid")
    predictor = SegformerPredictor.from_checkpoint(checkpoint, runtime=runtime)
    result = predictor.predict({"image": objects(*map(str, real_sample))})
    assert set(result) == {"segmentation"}
    assert_masks(result["segmentation"], real_masks)
    for path, mask, other in zip(real_sample, result["segmentation"], real_masks, strict=True):
        assert (mask == other).mean() > 0.999, path.name


@pytest.mark.slow
def test_bfloat16_of_real_images(shared, real_sample, real_masks):
    predictor = SegformerPredictor(shared / "models/segformer-b0-camvid", dtype="bfloat16")
    result = predictor.predict({"image": objects(*map(str, real_sample))})
    agreement_of = agreement(result["segmentation"], real_masks)
    assert 0.98 < agreement_of < 1  # it is another arithmetic, and close


@pytest.mark.slow
def test_losses_of_real_images(shared, real_pairs, trained):
    predictor = SegformerPredictor(shared / "models/segformer-b0-camvid", annotation_column="annotation")
    images, annotations = zip(*real_pairs[::6], strict=True)
    result = predictor.predict({"image": objects(*map(str, images)), "annotation": objects(*map(str, annotations))})
    expected = [trained.loss(Image.open(image), np.array(Image.open(ids))) for image, ids in real_pairs[::6]]
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
    assert_masks(result["segmentation"], masks)
    assert_masks(predictor.predict(frame[["image"]])["segmentation"], masks)  # Ray makes a bare array of it
    assert result.index.equals(frame.index) and predictor(frame).index.equals(frame.index)


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
    for batch in (image, {"image": image}):
        with pytest.raises(ValueError, match=r"is one image or many grey ones; give a batch as \(N, H, W, 3\)"):
            predictor.predict(batch)


@pytest.mark.parametrize(
    "data", [[PICTURES[0]], "photo.jpg", np.array("photo.jpg"), None, Image.fromarray(PICTURES[0])]
)
def test_other_types_of_batches(predictor, data):
    with pytest.raises(
        RuntimeError, match=r"Invalid input data type .*; a batch is a dict such as {'image': \['a.jpg'"
    ):
        predictor.predict(data)


def test_a_dict_may_hold_lists(predictor, masks, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(PICTURES[0]))
    pictures = [str(tmp_path / "a.png"), *map(Image.fromarray, PICTURES[1:])]
    assert_masks(predictor.predict({"image": pictures})["segmentation"], masks)
    assert_masks(predictor.predict({"image": (PICTURES[0],)})["segmentation"], masks[:1])
    with pytest.raises(ImageError, match=r"an array of Python objects, which np.array\(\[image\], object\) makes"):
        predictor.predict({"image": np.array([Image.fromarray(PICTURES[0])], object)})


def test_channels_first_are_no_pixel_values(predictor, masks):
    image = PICTURES[1][None]
    with pytest.raises(ValueError, match=r"counts as pixel values .* \(N, 3, 64, 96\); give images as \(N, H, W, 3\)"):
        predictor.predict(image.transpose(0, 3, 1, 2))
    assert_masks(predictor.predict(image)["segmentation"], masks[1:2])


def test_batch_without_images(predictor):
    with pytest.raises(ValueError, match=r"no column 'image', only \['photo'\]"):
        predictor.predict({"photo": objects(*PICTURES)})
    with pytest.raises(ValueError, match=r"no column 'image', only \[\]; .*; leave feature_columns= out"):
        predictor.predict({})  # as of BatchPredictor, where feature_columns names columns that preprocessing replaced


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
    assert_masks(result["segmentation"], expected["segmentation"])
    np.testing.assert_allclose(result["loss"], expected["loss"], rtol=1e-5)


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


@pytest.mark.slow
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


def test_nulls_of_dictionary_encoded_columns(checkpoint, masks):
    """pyarrow alone gives them the value of another row."""
    images = pa.array([encode(PICTURES[0]), None, encode(PICTURES[1]), None]).dictionary_encode()
    annotations = pa.array([encode(ANNOTATIONS[0]), None, encode(ANNOTATIONS[1]), None]).dictionary_encode()
    predictor = SegformerPredictor(checkpoint, on_error="keep", annotation_column="annotation")
    rows = predictor.predict(pa.table({"image": images, "annotation": annotations})).to_pylist()
    assert [row["error"] and "null" in row["error"] for row in rows] == [None, True, None, True]
    assert agreement([rows[0]["segmentation"], rows[2]["segmentation"]], masks[:2]) >= 0.999
    predictor = SegformerPredictor(checkpoint, annotation_column="annotation")
    whole = pa.array([encode(PICTURES[0])] * 3)
    ids = pa.array([encode(ANNOTATIONS[0]), None, None]).dictionary_encode()
    losses = predictor.predict(pa.table({"image": whole, "annotation": ids}))["loss"].to_numpy()
    assert np.isnan(losses).tolist() == [False, True, True]


@pytest.mark.parametrize("own", [np.arange(len(PICTURES)), objects(*["cat"] * len(PICTURES))])
def test_another_column_of_labels_is_not_the_predictors(checkpoint, masks, own):
    predictor = SegformerPredictor(checkpoint, on_error="keep")
    batch = {"image": objects(*PICTURES), "labels": own}
    for result in (predictor.predict(batch), predictor.predict(checkpoint.get_preprocessor().transform_batch(batch))):
        assert set(result) == {"segmentation", "error"}
        assert agreement(list(result["segmentation"]), masks) >= 0.999
    assert list(predictor(batch)["labels"].to_pylist()) == own.tolist()  # it stays, as other columns do


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
        ({"label_map": {1: 2}}, "label_map and label_colors say how .*; name their column with annotation_column"),
    ],
    ids=["runtime", "dtype", "float16", "on_error", "label_map"],
)
def test_bad_options(checkpoint, options, message):
    for make in (SegformerPredictor, SegformerPredictor.from_checkpoint):
        with pytest.raises(ValueError, match=message):
            make(checkpoint, **options)


def test_unknown_option(checkpoint):
    with pytest.raises(TypeError, match="image_colum"):
        SegformerPredictor(checkpoint, image_colum="photo")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_colum": "photo"}, TypeError, "SegformerPredictor got an unexpected keyword argument 'image_colum'"),
        ({"runtime": "jit"}, ValueError, "runtime is one of .*, not 'jit'"),
        ({"on_error": "ignore"}, ValueError, "on_error is one of .*, not 'ignore'"),
    ],
)
def test_options_are_checked_before_they_are_sent_to_workers(checkpoint, options, error, message):
    with pytest.raises(error, match=message):
        SegformerPredictor.prepare_checkpoint(checkpoint, **options)

    class Own(SegformerPredictor):
        @classmethod
        def from_checkpoint(cls, checkpoint, *, level, **options):
            return super().from_checkpoint(checkpoint, **options)

    assert Own.prepare_checkpoint(checkpoint, level=3, runtime="eager").id2label == checkpoint.id2label


def test_a_column_error_of_the_users_own(checkpoint, masks):
    batch = {"image": objects(*PICTURES), "error": np.array([0.1, 0, 0.2])}
    assert_masks(SegformerPredictor(checkpoint).predict(batch)["segmentation"], masks)
    keeping = SegformerPredictor(checkpoint, on_error="keep")
    with pytest.raises(ValueError, match=r"the column 'error' holds .*0\.1.*; give a column of your own another name"):
        keeping.predict(batch)
    arrays = {**batch, "error": objects(*(np.zeros(2) for _ in PICTURES))}
    assert_masks(SegformerPredictor(checkpoint).predict(arrays)["segmentation"], masks)
    nothing = pd.DataFrame({"image": list(PICTURES), "error": [np.nan] * 3})
    assert_masks(keeping.predict(nothing)["segmentation"], masks)


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


def test_columns_may_be_lists_and_series_but_not_one_cell(predictor):
    (path,) = [Image.fromarray(picture())]
    expected = predictor.predict({"image": [path]})["segmentation"]
    np.testing.assert_array_equal(predictor.predict({"image": pd.Series([path])})["segmentation"], expected)
    for cell, message in (
        ("a.jpg", "the column 'image' is a str, not a list or an array; of one cell, give a list of it"),
        (torch.zeros(1, 20, 30, 3), "the column 'image' is a Tensor, .*; give image.numpy()"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.predict({"image": cell})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": ["a.jpg", "b.jpg"], "annotation": ["a.png"]}, "same number of rows; .*'image': 2, 'annotation': 1"),
        ({"image": np.array("a.jpg", object)}, "the column 'image' is a ndarray, .* of one cell, give a list of it"),
        (pd.DataFrame([["a.jpg", "b.jpg"]], columns=["image", "image"]), "several columns of a batch are called image"),
    ],
)
def test_columns_that_do_not_go_together_are_named(predictor, batch, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(batch)


def test_labels_that_are_no_class_ids_in_one_row(predictor):
    ids = np.zeros((20, 30), np.int64)
    with pytest.raises(ImageError, match=r"row 1 of the batch: wrong annotation: labels are float64; expected class"):
        predictor.predict({"image": [picture(), picture()], "labels": [ids, ids + 0.7]})


def test_pixel_values_of_two_dtypes_are_no_group():
    class Network:
        rows = 2

    def ask(pixels):
        yield [pixels]

    def forward(pixels):
        seen.append(pixels.dtype)
        return torch.zeros(len(pixels), 4, 4, 3)

    seen, crops = [], (np.zeros((3, 16, 16), np.uint8), np.zeros((3, 16, 16), np.float32))
    list(Groups(Network()).run(forward, enumerate(map(ask, crops))))
    assert seen == [np.uint8, np.float32]


def test_a_column_labels_that_holds_no_class_ids_stays(predictor):
    boxes = np.random.default_rng(0).random((1, 3, 5))
    batch = predictor({"image": np.array([picture()]), "labels": boxes})
    np.testing.assert_array_equal(batch["labels"], boxes)
    assert "loss" not in batch
