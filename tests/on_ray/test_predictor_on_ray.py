"""The predictor in Ray: as a class for `map_batches`, in actors, and with a model in the object store."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from ray.data import ActorPoolStrategy
from reference import Reference, agreement, encode, objects, picture, small_model
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor

pytestmark = pytest.mark.usefixtures("ray_session", "one_thread")

PICTURES = [picture(40, 60, 1), picture(90, 50, 2), picture(33, 77, 3)]
BAD = b"no picture"
ROWS = 12
FAILED = {0, 1, 2, 7}  # of batches of three, the first fails as a whole


@pytest.fixture(scope="module")
def checkpoint(small_dir) -> SegformerCheckpoint:
    return SegformerCheckpoint.from_pretrained(small_dir)


@pytest.fixture(scope="module")
def by_default(small_dir) -> Reference:
    """The small model with the default preprocessing, which a model alone has."""
    reference = Reference(small_dir)
    reference.processor = SegformerImageProcessorPil()
    return reference


class Files:
    """Pictures in files and, among them, files that are no pictures; and transformers' masks, or None."""

    def __init__(self, folder, small, height):
        self.paths = [str(folder / f"{i:02}.png") for i in range(ROWS)]
        for i, path in enumerate(self.paths):
            with open(path, "wb") as file:
                file.write(BAD if i in FAILED else encode(picture(height(i), 60, i)))
        self.masks = [None if i in FAILED else small.mask(Image.open(path)) for i, path in enumerate(self.paths)]


@pytest.fixture(scope="module")
def files(tmp_path_factory, small) -> Files:
    """Pictures of different sizes."""
    return Files(tmp_path_factory.mktemp("files"), small, lambda i: 40 + i)


@pytest.fixture(scope="module")
def files_of_one_size(tmp_path_factory, small) -> Files:
    """Where no row failed, Ray would choose another type of column for the masks of these."""
    return Files(tmp_path_factory.mktemp("one_size"), small, lambda i: 40)


def dataset(paths: list[str], **columns) -> ray.data.Dataset:
    """One row for each file, all in one block."""
    items = [{"image": path, "id": i, **{k: v[i] for k, v in columns.items()}} for i, path in enumerate(paths)]
    return ray.data.from_items(items, override_num_blocks=1)


def predict(data, source, batch_size: int = 3, batch_format: str = "numpy", **options) -> ray.data.Dataset:
    return data.map_batches(
        SegformerPredictor,
        fn_constructor_args=(source,),
        fn_constructor_kwargs=options,
        compute=ActorPoolStrategy(size=1),
        batch_size=batch_size,
        batch_format=batch_format,
    )


def assert_masks(found, expected) -> None:
    found = list(found)
    assert all(mask.dtype == np.uint8 for mask in found)
    assert agreement(found, expected) >= 0.9999


def assert_rows(rows, files: Files) -> None:
    rows = sorted(rows, key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(ROWS))
    for row, path, mask in zip(rows, files.paths, files.masks, strict=True):
        if mask is None:
            assert row["segmentation"] is None
            assert f"({path}): not an image in a known format" in row["error"]
        else:
            assert row["error"] is None
    good = [row["segmentation"] for row in rows if row["error"] is None]
    assert_masks(good, [mask for mask in files.masks if mask is not None])


@pytest.mark.parametrize("kind", ["model", "checkpoint", "directory"])
def test_object_refs(checkpoint, small, by_default, small_dir, kind):
    source = {"model": small_model(), "checkpoint": checkpoint, "directory": str(small_dir)}[kind]
    result = SegformerPredictor(ray.put(source)).predict({"image": objects(*PICTURES)})["segmentation"]
    reference = by_default if kind == "model" else small
    assert_masks(result, [reference.mask(Image.fromarray(array)) for array in PICTURES])


@pytest.mark.parametrize(("batch_format", "batch_size"), [("numpy", ROWS), ("pandas", 1), ("pyarrow", 3)])
def test_map_batches(checkpoint, files, batch_format, batch_size):
    """One pool of actors gets a block of raw images, and a block of images that were preprocessed before."""
    raw = dataset(files.paths, tag=[f"raw {i}" for i in range(ROWS)])
    tagged = dataset(files.paths, tag=[f"preprocessed {i}" for i in range(ROWS)])
    preprocessed = checkpoint.get_preprocessor(on_error="keep").transform(tagged)
    data = raw.materialize().union(preprocessed.materialize())
    rows = predict(data, checkpoint, batch_size, batch_format, on_error="keep").take_all()
    assert set(rows[0]) == {"id", "tag", "segmentation", "error"}
    for kind in ("raw", "preprocessed"):
        own = [row for row in rows if row["tag"].startswith(kind)]
        assert_rows(own, files)
        assert {(row["id"], row["tag"]) for row in own} == {(i, f"{kind} {i}") for i in range(ROWS)}


def test_a_model_in_the_object_store_and_losses(by_default, files):
    good = [path for i, path in enumerate(files.paths) if i not in FAILED]
    arrays = [np.asarray(Image.open(path)) for path in good]
    annotations = [array[..., 0] % 7 for array in arrays]
    rows = predict(
        dataset(good, annotation=list(map(encode, annotations))),
        ray.put(small_model()),
        batch_format="pyarrow",
        annotation_column="annotation",
    ).take_all()
    rows.sort(key=lambda row: row["id"])
    assert_masks([row["segmentation"] for row in rows], [mask_of(by_default, array) for array in arrays])
    expected = [by_default.loss(Image.fromarray(array), ids) for array, ids in zip(arrays, annotations, strict=True)]
    np.testing.assert_allclose([row["loss"] for row in rows], expected, rtol=1e-5)
    assert [row["annotation"] for row in rows] == list(map(encode, annotations))


def mask_of(reference: Reference, array: np.ndarray) -> np.ndarray:
    return reference.mask(Image.fromarray(array))


def test_actors_use_their_cpus_and_keep_their_memory(checkpoint):
    class Witness(SegformerPredictor):
        """Tells what its process is like."""

        def tell(self, pictures):
            faults = []
            for _ in range(20):
                self.predict(pictures)
                faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
            return torch.get_num_threads(), "transformers" in sys.modules, int(np.diff(faults).min())

    pictures = {"pixel_values": np.zeros((2, 3, 384, 384), np.uint8)}  # whose tensors are megabytes
    cold = {"env_vars": {"TESTS_WARM_PROCESS": ""}}  # Torch counts the CPUs when it is imported.
    actors = [ray.remote(Witness).options(num_cpus=cpus, runtime_env=cold).remote(checkpoint) for cpus in (1, 2)]
    for cpus, report in zip((1, 2), ray.get([actor.tell.remote(pictures) for actor in actors]), strict=True):
        threads, transformers, faults = report
        assert threads == cpus
        assert not transformers
        assert faults < 100  # of the best prediction: how threads meet decides when the kept memory is enough


def test_failed_batches_can_be_written_and_mixed(tmp_path, checkpoint, files, files_of_one_size):
    both = dataset(files.paths).union(dataset(files_of_one_size.paths))
    halves = predict(both, checkpoint, on_error="keep").materialize().split(2)
    seen = []
    for predictions in halves:
        as_numpy = predictions.take_batch(ROWS)  # where Ray makes empty arrays of nulls
        assert [mask.shape == (0, 0) for mask in as_numpy["segmentation"]] == [i in FAILED for i in as_numpy["id"]]
        one_size = len({mask.shape for mask in as_numpy["segmentation"] if mask.size}) == 1
        seen.append(one_size)
        expected = files_of_one_size if one_size else files
        mixed = predictions.map_batches(lambda table: table, batch_size=ROWS, batch_format="pyarrow")
        assert_rows(mixed.take_all(), expected)
        folder = str(tmp_path / f"one size {one_size}")
        predictions.write_parquet(folder)
        assert_rows(ray.data.read_parquet(folder).take_all(), expected)
    assert sorted(seen) == [False, True]


def test_an_error_that_is_raised_in_ray_names_the_file(checkpoint, files):
    with pytest.raises(Exception, match="known format") as caught:
        predict(dataset(files.paths[3:9]), checkpoint).materialize()
    assert files.paths[7] in str(caught.value)


def test_kept_columns_replace_no_prediction(checkpoint):
    rows = [{"id": 0, "image": picture(10, 10)}, {"id": 1, "image": None}, {"id": 2, "image": picture(40, 50)}]
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, on_error="keep", resize="none")
    options = {"batch_size": np.uint8(3), "max_scoring_workers": 1}
    with pytest.raises(TypeError, match=r"nor SegformerPredictor\.predict takes confidence, foo; options of the pred"):
        predictor.predict(ray.data.from_items(rows), confidence=True, foo=3)  # before anything starts
    kept = predictor.predict(ray.data.from_items(rows), keep_columns=["id", "error"], **options).take_all()
    errors = {row["id"]: row["error"] for row in kept}
    assert "too small" in errors[0] and "null" in errors[1] and errors[2] is None
    annotated = ray.data.from_items([{"image": picture(), "segmentation": np.zeros((3, 3), np.uint8)}])
    with pytest.raises(Exception, match="keep_columns names 'segmentation', as the predictions have; rename it"):
        predictor.predict(annotated, keep_columns=["segmentation"], **options).take_all()
