"""Datasets of encoded bytes, from folders, ADE20K's layout and Hugging Face `datasets`."""

import io
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ray_segformer.datasets import from_huggingface, read_ade20k, read_images, read_parquet
from ray_segformer.demo import write_scenes
from ray_segformer.inputs import InputError

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Five scenes with annotations, two of them in a folder below."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 5, height=48, width=64)
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (root / kind / "more").mkdir()
        for number in (3, 4):
            name = f"scene_{number:05d}.{suffix}"
            (root / kind / name).rename(root / kind / "more" / name)
    return root


def by_path(dataset):
    return {row.pop("path"): row for row in dataset.take_all()}


def files(root, annotated=True):
    """What the rows hold, read by hand."""
    rows = {}
    for image in (root / "images").rglob("*.jpg"):
        rows[str(image)] = {"image": image.read_bytes()}
        if annotated:
            mask = root / "annotations" / image.relative_to(root / "images").with_suffix(".png")
            rows[str(image)]["annotation"] = mask.read_bytes()
    return rows


def test_images_are_the_bytes_of_their_files(scenes):
    dataset = read_images(str(scenes / "images"))
    assert by_path(dataset) == files(scenes, annotated=False)
    assert dataset.schema().types == [pa.string(), pa.binary()]


def test_annotations_are_found_by_name(scenes):
    found = by_path(read_images(str(scenes / "images"), annotations=str(scenes / "annotations")))
    assert found == files(scenes)
    listed = by_path(read_images([*found], annotations=scenes / "annotations"))
    assert listed == found
    assert {path.rsplit("/", 2)[-2] for path in found} == {"images", "more"}


def test_an_image_without_an_annotation_is_named(scenes, tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "scene_00000.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"scene_0000\d\.jpg has no annotation: expected .*scene_0000\d\.png"):
        read_images(str(scenes / "images"), annotations=str(tmp_path / "annotations"))


def test_parquet_of_bytes_stays_as_it_is(scenes, tmp_path):
    table = pa.table({"path": list(files(scenes)), "image": [row["image"] for row in files(scenes).values()]})
    pa.parquet.write_table(table, tmp_path / "images.parquet")
    assert by_path(read_images(str(tmp_path / "images.parquet"))) == files(scenes, annotated=False)


@pytest.mark.parametrize("cells", ["bytes", "structs"])
def test_parquet_with_annotations(scenes, tmp_path, cells):
    expected = files(scenes)
    tables = []
    for path, row in expected.items():
        if cells == "bytes":
            table = {"path": [path], "photo": [row["image"]], "mask": [row["annotation"]]}
        else:  # as Hugging Face writes them
            table = {
                "photo": [{"bytes": row["image"], "path": path}],
                "mask": [{"bytes": row["annotation"], "path": None}],
            }
        tables.append(pa.table(table))
    (tmp_path / "below").mkdir()
    pa.parquet.write_table(pa.concat_tables(tables[:2]), tmp_path / "one.parquet")
    pa.parquet.write_table(pa.concat_tables(tables[2:]), tmp_path / "below" / "two.parquet")
    assert by_path(read_parquet(str(tmp_path), image_column="photo", annotation_column="mask")) == expected
    with pytest.raises(InputError, match=r"no column 'image', only .*photo, mask"):
        read_parquet(str(tmp_path))
    with pytest.raises(InputError, match=r"neither .* nor parquet there"):
        read_parquet(str(scenes))


def test_ade20k_has_splits(scenes, tmp_path):
    for kind in ("images", "annotations"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "training").symlink_to(scenes / kind)
    found = by_path(read_ade20k(tmp_path, "training"))
    expected = {
        path.replace(str(scenes / "images"), str(tmp_path / "images/training")): row
        for path, row in files(scenes).items()
    }
    assert found == expected
    with pytest.raises(InputError, match="images/validation: no such file or folder"):
        read_ade20k(tmp_path)
    assert by_path(read_ade20k(scenes, split="")) == files(scenes)


def test_real_ade20k(shared):
    rows = by_path(read_ade20k(shared / "data/ade20k", split=""))
    assert len(rows) == 5
    for path, row in rows.items():
        assert Image.open(io.BytesIO(row["annotation"])).size == Image.open(path).size


def test_a_file_that_vanished_is_null_and_its_path_stays(scenes, tmp_path):
    paths = [str(scenes / "images" / "scene_00000.jpg"), str(tmp_path / "gone.jpg"), str(tmp_path / "empty.jpg")]
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "list.txt").write_text("\n".join(paths))
    rows = by_path(read_images(str(tmp_path / "list.txt")))
    assert by_path(read_images([Path(path) for path in paths])) == rows
    assert rows[paths[0]]["image"] is not None
    assert rows[paths[1]]["image"] is None
    assert rows[paths[2]]["image"] == b""  # of which the error says that it is empty


@pytest.fixture(params=["object", "directory"])
def saved(request, scenes, tmp_path):
    """A Hugging Face dataset of the scenes, in memory or as `save_to_disk` leaves it."""

    def make(rows):
        features = datasets.Features(dict.fromkeys(rows[0], datasets.Image()))
        dataset = datasets.Dataset.from_list(rows, features=features)
        if request.param == "object":
            return dataset
        dataset.save_to_disk(str(tmp_path / "saved"))
        return str(tmp_path / "saved")

    return make


def test_huggingface_paths_and_bytes(scenes, saved):
    expected = files(scenes)
    rows = [{"image": path, "annotation": {"bytes": row["annotation"], "path": None}} for path, row in expected.items()]
    found = from_huggingface(saved(rows)).take_all()
    assert [row["image"] for row in found] == [row["image"] for row in expected.values()]
    assert [row["annotation"] for row in found] == [row["annotation"] for row in expected.values()]
    assert {row["path"].rsplit("/", 1)[-1] for row in found} == {path.rsplit("/", 1)[-1] for path in expected}


def test_huggingface_without_paths_in_many_tasks(scenes, saved):
    contents = [row["image"] for row in files(scenes).values()] * 30
    rows = [{"photo": {"bytes": content, "path": None}} for content in contents]
    found = from_huggingface(saved(rows), image_column="photo", annotation_column=None).take_all()
    assert sorted(row["path"] for row in found) == sorted(f"row-{number}" for number in range(150))
    assert {row["path"]: row["image"] for row in found} == {f"row-{i}": content for i, content in enumerate(contents)}


def test_huggingface_wrong_names(saved, scenes, tmp_path):
    dataset = saved([{"image": path} for path in files(scenes)])
    with pytest.raises(InputError, match="no column 'annotation', only image"):
        from_huggingface(dataset)
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"image": [1]})})
    with pytest.raises(InputError, match="splits train; name one"):
        from_huggingface(splits)


def test_few_images_are_divided_among_tasks(ray_session, tmp_path):
    write_scenes(tmp_path, 20, height=32, width=32)
    dataset = read_images(str(tmp_path / "images"), annotations=str(tmp_path / "annotations"))
    rows = [len(block["path"]) for block in dataset.iter_batches(batch_size=None)]
    assert sum(rows) == 20 and max(rows) <= 8
