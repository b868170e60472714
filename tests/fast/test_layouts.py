"""Annotated datasets as they are downloaded: found by their layout, split by split, without Ray."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from reference import decode, encode, picture

from ray_segformer.datasets import from_huggingface, read_images
from ray_segformer.inputs import InputError, find_annotated, find_input
from ray_segformer.inputs._huggingface import find_huggingface

# Ids of Cityscapes' labelIds and what they become, from the table of its authors: -1 and 255 there are 255 here.
LABEL_IDS = np.arange(36, dtype=np.uint8).reshape(4, 9)
EXPECTED = [
    *(255, 255, 255, 255, 255, 255, 255),  # unlabeled, ego vehicle, ..., ground
    *(0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18),
    *(255, 255),  # no ids of the dataset
]


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def cityscapes(root: Path, split: str, names: list[str], kind: str = "gtFine", ids: np.ndarray = LABEL_IDS) -> None:
    for name in names:
        city = name.split("_")[0]
        write(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", picture(*ids.shape))
        write(root / f"{kind}/{split}/{city}/{name}_{kind}_labelIds.png", ids)
        write(root / f"{kind}/{split}/{city}/{name}_{kind}_color.png", picture(*ids.shape))


def voc(root: Path, split: str, names: list[str], ids: np.ndarray) -> None:
    """Palette PNGs; one more image is in no list and has no annotation."""
    for name in [*names, "2009_000000"]:
        write(root / f"JPEGImages/{name}.jpg", picture(*ids.shape))
    for name in names:
        mask = Image.fromarray(ids, "P")
        mask.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        path = root / f"SegmentationClass/{name}.png"
        path.parent.mkdir(exist_ok=True)
        mask.save(path)
    (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")


def pairs(folder: Path, images: str, annotations: str, count: int = 1) -> None:
    for number in range(count):
        write(folder / images / f"{number}.jpg", picture(seed=number))
        write(folder / annotations / f"{number}.png", np.full((20, 30), number, np.uint8))


def ids_of(row: dict) -> np.ndarray:
    cell = row["annotation"]
    cell = cell.get("bytes") if isinstance(cell, dict) else cell
    return np.asarray(decode(cell) if isinstance(cell, bytes) else Image.open(cell.removeprefix("file://")))


def images_of(found) -> list[str]:
    return [Path(row["path"]).name for row in found.sample(99)]


# Cityscapes


def test_the_ids_of_cityscapes_become_train_ids(tmp_path):
    cityscapes(tmp_path, "val", ["ulm_1_2", "bonn_3_4"])
    cityscapes(tmp_path, "train", ["aachen_0_0"])
    found = find_annotated(str(tmp_path))  # of its splits, val
    assert images_of(found) == ["bonn_3_4_leftImg8bit.png", "ulm_1_2_leftImg8bit.png"]
    assert found.rows == 2 and found.reduce_labels is False
    for row in found.sample(2):
        assert ids_of(row).ravel().tolist() == EXPECTED
        assert Path(row["path"]).is_file()


def test_train_ids_that_are_there_are_taken_if_every_image_has_them(tmp_path):
    cityscapes(tmp_path, "train", ["ulm_1_2", "ulm_1_3"])
    made = tmp_path / "gtFine/train/ulm"
    write(made / "ulm_1_2_gtFine_labelTrainIds.png", np.full((4, 9), 5, np.uint8))
    assert ids_of(find_annotated(str(tmp_path), "train").sample(1)[0]).ravel().tolist() == EXPECTED
    write(made / "ulm_1_3_gtFine_labelTrainIds.png", np.full((4, 9), 5, np.uint8))
    assert (ids_of(find_annotated(f"file://{tmp_path}", "train").sample(1)[0]) == 5).all()


def test_archives_of_cityscapes_unpacked_side_by_side(tmp_path):
    cityscapes(tmp_path / "all", "val", ["ulm_1_2"])
    for kind in ("leftImg8bit", "gtFine"):
        (tmp_path / f"{kind}_trainvaltest").mkdir()
        (tmp_path / "all" / kind).rename(tmp_path / f"{kind}_trainvaltest" / kind)
    assert ids_of(find_annotated(str(tmp_path)).sample(1)[0]).ravel().tolist() == EXPECTED


def test_coarse_annotations_are_said(tmp_path):
    cityscapes(tmp_path, "train_extra", ["ulm_1_2"], kind="gtCoarse")
    found = find_annotated(str(tmp_path), "train_extra")
    (guess,) = found.guesses
    assert guess.code == "coarse-annotations" and "no gtFine/train_extra, so" in guess.message
    assert ids_of(found.sample(1)[0]).ravel().tolist() == EXPECTED


def test_what_cityscapes_lacks_is_named(tmp_path):
    cityscapes(tmp_path, "val", ["ulm_1_2", "ulm_1_3"])
    cityscapes(tmp_path, "test", ["bonn_0_0"], ids=np.full((4, 9), 3, np.uint8))
    with pytest.raises(InputError, match=r"no split 'training'; the splits there are test, val"):
        find_annotated(str(tmp_path), "training")
    with pytest.raises(InputError, match="annotations of the split 'test' ignore every pixel"):
        find_annotated(str(tmp_path), "test")
    (tmp_path / "gtFine/val/ulm/ulm_1_3_gtFine_labelIds.png").unlink()
    with pytest.raises(InputError, match=r"val/ulm/ulm_1_3_leftImg8bit.png has no annotation: expected gtFine/val/ulm"):
        find_annotated(str(tmp_path))


# PASCAL VOC


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_is_read_by_its_lists_with_borders_of_255(tmp_path, below):
    ids = np.array([[0, 15, 255], [20, 255, 0]], np.uint8)
    voc(tmp_path / below, "val", ["2007_000033", "2007_000032"], ids)
    voc(tmp_path / below, "train", ["2008_000001"], ids)
    found = find_annotated(str(tmp_path))
    assert images_of(found) == ["2007_000033.jpg", "2007_000032.jpg"] and found.reduce_labels is False
    assert all(np.array_equal(ids_of(row), ids) for row in found.sample(2))
    assert images_of(find_annotated(str(tmp_path), "train")) == ["2008_000001.jpg"]


def test_tools_that_write_voc_leave_images_in_their_format(tmp_path):
    """As CVAT exports segmentation masks."""
    voc(tmp_path, "default", ["b", "a"], np.zeros((2, 3), np.uint8))
    (tmp_path / "JPEGImages/b.jpg").rename(tmp_path / "JPEGImages/b.PNG")
    (tmp_path / "JPEGImages/b.txt").touch()
    assert images_of(find_annotated(str(tmp_path), "default")) == ["b.PNG", "a.jpg"]


def test_what_voc_lacks_is_named(tmp_path):
    ids = np.zeros((2, 3), np.uint8)
    voc(tmp_path / "VOC2012", "val", ["2007_000033"], ids)
    lists = tmp_path / "VOC2012/ImageSets/Segmentation"
    with pytest.raises(InputError, match="no split 'test'; the splits there are val"):
        find_annotated(str(tmp_path), "test")
    (lists / "train.txt").write_text("2007_000033\n2009_000000\n")
    with pytest.raises(
        InputError, match=r"JPEGImages/2009_000000.jpg, of .*train.txt, has no annotation: expected Segm"
    ):
        find_annotated(str(tmp_path), "train")
    voc(tmp_path / "VOC2007", "val", ["2007_000033"], ids)
    with pytest.raises(InputError, match=r"several years .*VOC2007, .*VOC2012"):
        find_annotated(str(tmp_path))


def test_voc_without_lists_is_read_whole(tmp_path):
    """As tools for labelling write it."""
    ids = np.array([[0, 15, 255], [20, 255, 0]], np.uint8)
    voc(tmp_path, "val", ["b", "a"], ids)
    shutil.rmtree(tmp_path / "ImageSets")
    with pytest.raises(InputError, match=r"JPEGImages/2009_000000\.jpg has no annotation"):
        find_annotated(str(tmp_path))
    (tmp_path / "JPEGImages/2009_000000.jpg").unlink()
    found = find_annotated(str(tmp_path))
    assert images_of(found) == ["a.jpg", "b.jpg"] and found.reduce_labels is False
    assert all(np.array_equal(ids_of(row), ids) for row in found.sample(2))
    with pytest.raises(InputError, match="no split 'train'; it has no splits; leave --split out"):
        find_annotated(str(tmp_path), "train")


# Folders of images and of annotations


def test_voc_of_labelme_has_its_png_files_in_a_folder_of_their_own(tmp_path):
    pairs(tmp_path, "JPEGImages", "SegmentationClassPNG", 3)
    (tmp_path / "SegmentationClass").mkdir()
    for number in range(3):
        np.save(tmp_path / f"SegmentationClass/{number}.npy", np.zeros((20, 30), np.int32))
    found = find_annotated(str(tmp_path))
    assert found.rows == 3 and found.reduce_labels is False
    assert [ids_of(row)[0, 0] for row in found.sample(3)] == [0, 1, 2]


def test_annotations_of_similar_names_are_named(tmp_path):
    pairs(tmp_path, "images", "masks", 2)
    for number in range(2):
        (tmp_path / f"masks/{number}.png").rename(tmp_path / f"masks/{number}_mask.png")
    with pytest.raises(InputError, match=r"0\.jpg has no annotation: expected .*; 0_mask is there: name anno"):
        find_annotated(str(tmp_path))


def test_polygons_are_no_masks(tmp_path):
    """As Roboflow and CVAT export them for YOLO."""
    write(tmp_path / "images/a.png", np.zeros((4, 9, 3), np.uint8))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 .1 .1 .2 .1 .2 .2")
    with pytest.raises(
        InputError, match=r"labels: neither images .*; annotations are PNGs of class ids: draw polygons"
    ):
        find_annotated(str(tmp_path))


def test_images_that_differ_in_their_suffixes_alone_share_no_annotation(tmp_path):
    pairs(tmp_path, "images", "masks", 2)
    shutil.copy(tmp_path / "images/1.jpg", tmp_path / "images/1.png")
    with pytest.raises(InputError, match=r"1\.jpg has no annotation: .*; several images are called 1: leave one out"):
        find_annotated(str(tmp_path))
    assert find_annotated(str(tmp_path), exclude=["*.png"]).rows == 2


@pytest.mark.parametrize("images, annotations", [("images", "masks"), ("imgs", "labels"), ("img_dir", "ann_dir")])
def test_folders_that_people_name_so(tmp_path, images, annotations):
    pairs(tmp_path, images, annotations, 40)
    found = find_annotated(str(tmp_path))
    assert found.rows == 40 and found.reduce_labels is None
    sample = found.sample(4)
    assert [Path(row["path"]).name for row in sample] == ["0.jpg", "20.jpg", "32.jpg", "9.jpg"]  # every 13th by name
    assert [ids_of(row)[0, 0] for row in sample] == [0, 20, 32, 9]
    for split in ("train", ""):  # such as of a variable that is not set
        with pytest.raises(InputError, match=f"no split '{split}'; it has no splits"):
            find_annotated(str(tmp_path), split)
    pairs(tmp_path, images, "masks" if annotations != "masks" else "labels")
    with pytest.raises(InputError, match=r"and .* are there, and each may be meant"):
        find_annotated(str(tmp_path))


@pytest.mark.parametrize("layout", ["{kind}/{split}", "{split}/{kind}"], ids=["below", "above"])
def test_splits_are_folders(tmp_path, layout):
    for count, split in enumerate(("train", "val", "test"), 1):
        pairs(tmp_path, *(layout.format(kind=kind, split=split) for kind in ("images", "masks")), count)
    assert find_annotated(str(tmp_path)).rows == 2
    assert find_annotated(str(tmp_path), "test").rows == 3
    with pytest.raises(InputError, match=r"no split 'validation'; the splits there are test, train, val"):
        find_annotated(str(tmp_path), "validation")


def test_other_folders_are_no_splits(tmp_path):
    pairs(tmp_path, "images/street", "masks/street", 2)
    pairs(tmp_path, "images/field", "masks/field", 3)
    assert find_annotated(str(tmp_path)).rows == 5


# Parquet and Hugging Face datasets


def rows(count: int) -> list[dict]:
    return [
        {"image": {"bytes": encode(picture()), "path": None}, "annotation": {"bytes": encode(mask), "path": None}}
        for mask in (np.full((20, 30), number, np.uint8) for number in range(count))
    ]


@pytest.mark.parametrize(
    "name", ["data/{}-00000-of-00002.parquet", "default/{}/0000.parquet", "{}.parquet"], ids=["hub", "converted", "own"]
)
def test_parquet_is_split_by_names(tmp_path, name):
    for count, split in enumerate(("train", "validation"), 1):
        path = tmp_path / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(pa.Table.from_pylist(rows(count)), path)
    found = find_annotated(str(tmp_path))
    assert found.rows == 2 and [ids_of(row)[0, 0] for row in found.sample(9)] == [0, 1]
    assert find_annotated(str(tmp_path), "train").rows == 1
    with pytest.raises(InputError, match="no split 'test'; the splits there are train, validation"):
        find_annotated(str(tmp_path), "test")
    one_file = tmp_path / name.format("train")
    assert find_annotated(str(one_file)).rows == 1


def test_a_dataset_dict_that_was_saved(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    splits = {split: datasets.Dataset.from_list(rows(count), features) for split, count in (("train", 3), ("test", 2))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path))
    with pytest.raises(InputError, match="has the splits train, test; name one of them with split= "):
        find_annotated(str(tmp_path))
    with pytest.raises(InputError, match="no split 'dev'; the splits there are test, train"):
        find_annotated(str(tmp_path), "dev")
    found = find_annotated(str(tmp_path), "train")
    assert found.rows == 3 and [ids_of(row)[0, 0] for row in found.sample(2)] == [0, 2]
    with pytest.raises(
        InputError, match="no column 'mask', only image, annotation; name the right one with --image-column or"
    ):
        find_annotated(str(tmp_path), "test", annotation_column="mask")


def test_a_dataset_that_was_made_ready_for_a_training_has_its_images(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    rows_of = datasets.Dataset.from_list(rows(2), features)
    transformed = rows_of.with_transform(lambda batch: {"pixel_values": [0] * len(batch["image"])})
    other_columns = rows_of.add_column("number", [0, 1]).with_format("numpy", columns=["number"])
    other_columns.save_to_disk(tmp_path / "saved")
    for dataset in (transformed, other_columns, str(tmp_path / "saved")):
        found = find_huggingface(dataset, None, "image", "annotation")
        assert [ids_of(row)[0, 0] for row in found.sample(2)] == [0, 1]


def test_streams_and_lists_of_images_are_refused():
    images = datasets.Dataset.from_list(rows(2), datasets.Features(dict.fromkeys(rows(1)[0], datasets.Image())))
    with pytest.raises(InputError, match=r"the dataset is a stream, .* without streaming=True"):
        from_huggingface(images.to_iterable_dataset())
    lists = images.cast_column("image", datasets.Image(decode=False)).map(lambda row: {"image": [row["image"]]})
    with pytest.raises(InputError, match="the column 'image' holds lists of images; give each image a row"):
        from_huggingface(lists.cast_column("image", datasets.Sequence(datasets.Image())))


def test_layouts_without_columns_refuse_their_names(tmp_path):
    pairs(tmp_path / "folders", "images", "masks")
    cityscapes(tmp_path / "cityscapes", "val", ["ulm_1_1"])
    voc(tmp_path / "voc", "val", ["2008_000001"], np.zeros((20, 30), np.uint8))
    for layout in ("folders", "cityscapes", "voc"):
        for find, column in ((find_annotated, "annotation_column"), (find_input, "image_column")):
            with pytest.raises(InputError, match=rf"{layout}: --image-column .* are for parquet .* has no columns"):
                find(str(tmp_path / layout), **{column: "photo"})
    with pytest.raises(InputError, match="neither the folders images/ and annotations/"):  # not: images, and no word
        find_input(str(tmp_path / "folders/images"), image_column="photo")


def test_what_is_none_of_these_is_told_what_is_expected(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances.json").write_text("{}")
    with pytest.raises(InputError, match=r"neither the folders images/ and annotations/ .*PASCAL VOC.* nor parquet"):
        find_annotated(str(tmp_path))
    with pytest.raises(InputError, match="no such file or folder"):
        find_annotated(str(tmp_path / "gone"))


def test_names_that_some_file_systems_cannot_tell_apart_have_annotations_of_their_own(tmp_path):
    names = ("a", "A", unicodedata.normalize("NFC", "caf\u00e9"), unicodedata.normalize("NFD", "caf\u00e9"))
    for number, name in enumerate(names):
        write(tmp_path / f"images/{name}.jpg", picture())
        write(tmp_path / f"masks/{name}.png", np.full((4, 9), number, np.uint8))
    found = {Path(row["path"]).stem: ids_of(row)[0, 0] for row in find_annotated(str(tmp_path)).sample(9)}
    assert found == {name: number for number, name in enumerate(names)}


def test_one_accent_may_be_written_in_two_ways(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    write(tmp_path / f"images/{composed}.jpg", picture())
    write(tmp_path / f"masks/{decomposed}.png", np.full((4, 9), 3, np.uint8))
    (row,) = find_annotated(str(tmp_path)).sample(9)
    assert (ids_of(row) == 3).all()


def test_two_annotations_of_one_name_are_none(tmp_path):
    pairs(tmp_path, "images", "masks")
    write(tmp_path / "masks/0.tif", np.zeros((4, 9), np.uint8))
    with pytest.raises(InputError, match=r"0\.jpg has no annotation: expected .*/0\.png.*; several annotations are"):
        find_annotated(str(tmp_path))


@pytest.mark.parametrize(
    "splits, asked, expected",
    [
        (("train2017", "val2017"), None, 1),
        (("train2017", "val2017"), "train", 0),
        (("Train", "Val"), None, 1),
        (("split=train", "split=val"), None, 1),
        (("north", "south"), "south", 1),
    ],
)
def test_folders_that_are_splits_by_their_names_or_because_one_is_asked_for(tmp_path, splits, asked, expected):
    for number, split in enumerate(splits):
        write(tmp_path / f"images/{split}/{number}.jpg", picture())
        write(tmp_path / f"masks/{split}/{number}.png", np.zeros((20, 30), np.uint8))
    assert images_of(find_annotated(str(tmp_path), asked)) == [f"{expected}.jpg"]


def test_several_splits_that_may_be_meant_are_listed(tmp_path):
    for split in ("val2014", "val2017"):
        pairs(tmp_path, f"images/{split}", f"masks/{split}")
    with pytest.raises(InputError, match=r"the splits there are val2014, val2017 \(choose one with --split"):
        find_annotated(str(tmp_path))


def test_a_folder_whose_name_is_no_utf8_is_passed_over(tmp_path):
    pairs(tmp_path, "images", "masks")
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    assert find_annotated(str(tmp_path)).rows == find_input(str(tmp_path)).rows == 1


def test_train_ids_of_which_one_is_missing_name_that_one(tmp_path):
    cityscapes(tmp_path, "val", ["ulm_1_2", "ulm_1_3", "ulm_1_4"])
    for path in sorted((tmp_path / "gtFine/val/ulm").glob("*_labelIds.png")):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    (tmp_path / "gtFine/val/ulm/ulm_1_3_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(InputError, match=r"ulm_1_3_leftImg8bit.png has no annotation: expected .*_1_3_.*labelTrainIds"):
        find_annotated(str(tmp_path))


def test_names_in_lists_of_voc_may_have_spaces(tmp_path):
    voc(tmp_path, "val", ["IMG 1", "IMG 2"], np.zeros((4, 9), np.uint8))
    assert images_of(find_annotated(str(tmp_path))) == ["IMG 1.jpg", "IMG 2.jpg"]


def test_what_is_no_column_of_images_or_has_no_rows_is_said(tmp_path):
    images = [{"bytes": encode(picture()), "path": None}]
    classes = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "annotation": classes})
    rows = datasets.Dataset.from_dict({"image": images, "annotation": [1]}, features)
    rows.save_to_disk(tmp_path / "one")
    with pytest.raises(InputError, match="the column 'annotation' holds no images, but int64"):
        find_annotated(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows.select([])}).save_to_disk(tmp_path / "two")
    with pytest.raises(InputError, match="two/test has no rows"):
        find_annotated(str(tmp_path / "two"), "test")
    with pytest.raises(InputError, match="nothere: no directory that save_to_disk"):
        from_huggingface(tmp_path / "nothere")


def test_a_column_of_annotations_that_holds_no_files_is_a_finding(tmp_path):
    """As Ray Data writes masks that are arrays."""
    source = tmp_path / "some.parquet"
    for annotation, expected in (([[[0, 1], [1, 0]]], ["annotation-column"]), (["a.png"], [])):
        pa.parquet.write_table(pa.table({"image": [encode(picture())], "annotation": annotation}), source)
        assert [guess.code for guess in find_input(str(source)).guesses] == expected
    pa.parquet.write_table(pa.table({"image": [encode(picture())], "annotation": [3]}), source)
    (guess,) = find_input(str(source)).guesses
    assert guess.message == (
        f"{source}: the column 'annotation' is of the type int64; expected encoded bytes, paths, or "
        '{"bytes", "path"}. Annotations are not looked at, and `evaluate` ends there'
    )


def test_options_that_contradict_each_other_are_refused(tmp_path):
    pairs(tmp_path, "images", "masks")
    for options in ({"split": "val"}, {"annotation_column": "mask"}):
        with pytest.raises(InputError, match="--annotations says where they are; leave out --split, "):
            find_input(f"{tmp_path}/images", **options, annotations=f"{tmp_path}/masks")
    table = pa.table({"image": [encode(picture())], "name": ["0"]})
    pa.parquet.write_table(table, tmp_path / "some.parquet")
    with pytest.raises(InputError, match=r"some\.parquet: images in parquet have no files of annotations"):
        read_images(tmp_path / "some.parquet", annotations=tmp_path / "masks")
