"""Annotated datasets as they are downloaded, read by Ray: the bytes of images, and class ids in annotations."""

import datasets
import numpy as np
import pytest
from PIL import Image
from reference import decode, encode, picture

from ray_segformer.datasets import from_huggingface, read_cityscapes, read_parquet, read_voc

pytestmark = pytest.mark.usefixtures("ray_session")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def by_path(dataset):
    return {row.pop("path").rsplit("/", 1)[-1]: row for row in dataset.take_all()}


def test_cityscapes(tmp_path):
    ids = np.array([[7, 26, 0], [33, 12, 30]], np.uint8)
    photo = write(tmp_path / "leftImg8bit/val/ulm/ulm_1_2_leftImg8bit.png", encode(picture(2, 3)))
    stored = write(tmp_path / "gtFine/val/ulm/ulm_1_2_gtFine_labelIds.png", encode(ids))
    (row,) = by_path(read_cityscapes(tmp_path)).values()
    assert row["image"] == photo
    assert np.asarray(decode(row["annotation"])).tolist() == [[0, 13, 255], [18, 3, 255]]
    (row,) = read_cityscapes(tmp_path, "val", train_ids=False).take_all()
    assert row["annotation"] == stored


def test_voc(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    mask = Image.new("P", (3, 2), 5)
    mask.putpalette(list(range(30)))
    expected = {}
    for name in ("a", "b"):
        image = write(root / f"JPEGImages/{name}.jpg", encode(picture(2, 3), "JPEG"))
        expected[f"{name}.jpg"] = {
            "image": image,
            "annotation": write(root / f"SegmentationClass/{name}.png", encode(mask)),
        }
    write(root / "JPEGImages/c.jpg", b"of another task")
    write(root / "ImageSets/Segmentation/train.txt", b"b\na\n")
    assert by_path(read_voc(tmp_path, "train")) == expected


def test_a_split_of_a_dataset_dict_and_of_parquet(tmp_path):
    image, mask = encode(picture()), encode(np.full((20, 30), 3, np.uint8))
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    one = datasets.Dataset.from_list([{"image": {"bytes": image}, "annotation": {"bytes": mask}}], features)
    both = datasets.DatasetDict({"train": datasets.concatenate_datasets([one] * 3), "test": one})
    both.save_to_disk(str(tmp_path / "saved"))
    for split, dataset in both.items():
        (tmp_path / "data").mkdir(exist_ok=True)
        dataset.to_parquet(str(tmp_path / f"data/{split}-00000-of-00001.parquet"))
    for dataset in (
        from_huggingface(str(tmp_path / "saved"), split="test"),
        from_huggingface(both, split="test"),
        read_parquet(str(tmp_path / "data"), split="test"),
    ):
        (row,) = dataset.take_all()
        assert (row["image"], row["annotation"]) == (image, mask)
