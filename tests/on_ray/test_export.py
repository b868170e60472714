"""Masks as the files of other programs, read by pycocotools, Label Studio's converter, Pillow and an XML parser.

The recipes of docs/recipes.md are tested here, too: they need the same outputs.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
import shutil
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from label_studio_converter.brush import decode_rle
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from reference import decode, picture

from ray_segformer.exports import FORMATS, Cityscapes, ExportError, ExportImage, LabelStudio, Png
from ray_segformer.inputs import find_images
from ray_segformer.viz import class_palette

pytestmark = pytest.mark.usefixtures("ray_session")

STREET = "b/aachen/aachen_000000_000019_leftImg8bit.png"  # a name of Cityscapes
IMAGES = ("a/1.png", "a/2.png", "a/2.webp", STREET, "b/4.png")  # two of which have one name without suffix
BROKEN = "b/5.png"
UPRIGHT_AFTER_TURNING = "a/1.png"  # which has a place on Earth, too


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for number, name in enumerate(IMAGES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if name == UPRIGHT_AFTER_TURNING:
            exif[0x0112] = 6
            exif[0x8825] = {1: "S", 2: (33.0, 52.0, 10.0), 3: "E", 4: (151.0, 12.0, 30.0)}
        image = Image.fromarray(picture(40 + 3 * number, 50 + number, number))
        image.save(folder / name, lossless=True, exif=exif)
    (folder / BROKEN).write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def outputs(scenes, small_dir, ray_session, tmp_path_factory):
    """Outputs of `predict` in both formats, in files of two rows."""
    from ray_segformer import SegformerCheckpoint
    from ray_segformer.predict import predict

    folder = tmp_path_factory.mktemp("outputs")
    options = {"on_error": "keep", "rows_per_shard": 2, "workers": 1, "progress": False}
    for name in ("parquet", "png"):
        checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
        predict(str(scenes), str(folder / name), checkpoint, mask_format=name, **options)
    return folder


@pytest.fixture(scope="module")
def masks(scenes, outputs):
    """Class ids by the path relative to the input, read from the parquet output."""
    rows = pa.parquet.read_table(outputs / "parquet/masks").to_pylist()
    found = {
        row["path"].removeprefix(f"{scenes}/"): np.asarray(decode(row["segmentation"]))
        for row in rows
        if row["error"] is None
    }
    assert sorted(found) == sorted(IMAGES) and len(np.unique(np.concatenate([*map(np.ravel, found.values())]))) > 2
    return found


@pytest.fixture(scope="module")
def id2label(outputs):
    return {int(key): name for key, name in json.loads((outputs / "parquet/classes.json").read_text()).items()}


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", ["parquet", "png"])
def test_png_files_have_ids_and_open_in_colours(outputs, masks, id2label, tmp_path, run_command, source):
    code, printed, _ = run_command("export", outputs / source, tmp_path / "out", "--format", "png")
    assert code == 0 and "5 images: " in printed and "1 image has no mask, and is left out" in printed
    found = {name: Image.open(tmp_path / "out" / name) for name in files_of(tmp_path / "out") if ".png" in name}
    palette = class_palette(id2label)
    for opened in found.values():
        assert opened.mode == "P"
        np.testing.assert_array_equal(np.asarray(opened.convert("RGB")), palette[np.asarray(opened)])
    for name in ("a/1.png", STREET, "b/4.png"):
        np.testing.assert_array_equal(np.asarray(found.pop(f"masks/{name}")), masks[name])
    assert len(found) == 2 and all(name.startswith("masks/a/2~") for name in found)  # of one name without suffix
    by_size = {opened.size[::-1]: np.asarray(opened) for opened in found.values()}
    for name in ("a/2.png", "a/2.webp"):
        np.testing.assert_array_equal(by_size[masks[name].shape], masks[name])
    meta = json.loads((tmp_path / "out/dataset_meta.json").read_text())
    assert {int(key): name for key, name in meta["label_map"].items()} == id2label
    assert [tuple(colour) for colour in meta["segmentation_colors"]] == [tuple(colour) for colour in palette.tolist()]
    summary = json.loads((tmp_path / "out/export.json").read_text())
    assert (summary["images"], summary["failures"], summary["source_finished"]) == (5, 1, True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("masks", "dataset_meta.json", "classes.json", "export.json")
    }


def test_each_class_has_a_colour_of_its_own(shared):
    """Road and skyscraper of ADE20K have one, by which Datumaro would take roads for skyscrapers."""
    config = json.loads((shared / "models/segformer-b0-camvid/config.json").read_text())
    id2label = {int(key): name for key, name in config["id2label"].items()}
    usual = class_palette(id2label).astype(int)
    assert len(np.unique(usual, axis=0)) < len(usual) == 150
    ((_, parts),) = Png(id2label).joint_files(lambda: iter([]))
    colours = np.array(json.loads(b"".join(parts))["segmentation_colors"])
    assert len(np.unique(colours, axis=0)) == 150 and np.abs(colours - usual).max() == 1


def test_as_many_classes_as_a_palette_holds():
    """Their masks have uint16."""
    mask = np.arange(256, dtype=np.uint16).reshape(16, 16)
    (content,) = (
        Png({number: str(number) for number in range(256)})
        .files(ExportImage("a.jpg", "a.jpg", "a", 0, mask, [*range(256)], [1] * 256))
        .values()
    )
    np.testing.assert_array_equal(np.asarray(decode(content)), mask)
    with pytest.raises(ExportError, match="a palette has at most 256 classes; this output has 257"):
        Png({number: str(number) for number in range(257)})


def test_colours_are_those_of_the_ids_where_some_have_no_class():
    id2label = {0: "wall", 2: "door", 5: "roof"}
    palette = class_palette(id2label)
    (_, parts), *_ = Png(id2label).joint_files(iter(()))
    meta = json.loads(b"".join(parts))
    assert [*meta["label_map"]] == ["0", "2", "5"] and meta["segmentation_colors"] == palette[[0, 2, 5]].tolist()
    (_, parts), *_ = LabelStudio(id2label).joint_files(lambda: iter(()))
    labels = xml.etree.ElementTree.fromstring(b"".join(parts)).iter("Label")
    colours = [bytes.fromhex(label.get("background").removeprefix("#")) for label in labels]
    assert colours == [palette[class_id].tobytes() for class_id in id2label]


@pytest.mark.parametrize("classes", [2, 3, 8, 16, 17, 255])
def test_pixels_without_data_are_255_whatever_the_number_of_classes(classes):
    mask = np.array([[0, classes - 1, 255]], np.uint8)
    image = ExportImage("a.jpg", "a.jpg", "a", 0, mask, [0, classes - 1, 255], [1, 1, 1])
    (content,) = Png({number: str(number) for number in range(classes)}).files(image).values()
    np.testing.assert_array_equal(np.asarray(decode(content)), mask)


def test_a_palette_of_256_classes_has_no_id_for_pixels_without_data():
    image = ExportImage("a.jpg", "a.jpg", "a", 0, np.array([[0, 65535]], np.uint16), [0, 65535], [1, 1])
    with pytest.raises(ExportError, match=r"a\.jpg: some pixels have no data, and a palette of 256 classes has no id"):
        Png({number: str(number) for number in range(256)}).files(image)


def test_classes_of_one_name_are_kept_apart():
    image = ExportImage("a.jpg", "a.jpg", "a", 0, np.array([[0, 1, 2]], np.uint8), [0, 1, 2], [1, 1, 1])
    names = {0: "door", 1: "door", 2: "wall"}
    strokes = LabelStudio(names).record(image)["predictions"][0]["result"]
    assert [stroke["value"]["brushlabels"] for stroke in strokes] == [["door (0)"], ["door (1)"], ["wall"]]
    (_, parts), *_ = Png(names).joint_files(iter(()))
    assert json.loads(b"".join(parts))["label_map"] == {"0": "door (0)", "1": "door (1)", "2": "wall"}


def test_coco(outputs, masks, id2label, tmp_path, run_command):
    code, _, said = run_command("export", outputs / "parquet", tmp_path / "out", "--format", "coco", "--panoptic")
    assert code == 0, said
    coco = COCO(tmp_path / "out/annotations.json")
    assert {image["file_name"] for image in coco.imgs.values()} == {*IMAGES}
    assert {category["id"]: category["name"] for category in coco.cats.values()} == id2label
    panoptic = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert panoptic["images"] == list(coco.imgs.values()) and len(panoptic["annotations"]) == len(IMAGES)
    segments_of = {each["image_id"]: each for each in panoptic["annotations"]}
    for number, image in coco.imgs.items():
        mask = masks[image["file_name"]]
        assert (image["height"], image["width"]) == mask.shape
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert [each["category_id"] for each in annotations] == np.unique(mask).tolist()
        for each in annotations:
            own = coco.annToMask(each).astype(bool)
            np.testing.assert_array_equal(own, mask == each["category_id"])
            rows, columns = np.nonzero(own)
            left, top = columns.min(), rows.min()
            assert each["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
            assert each["area"] == own.sum() and each["iscrowd"] == 0
        named = segments_of[number]
        with Image.open(tmp_path / "out/panoptic" / named["file_name"]) as opened:
            red, green, blue = np.moveaxis(np.asarray(opened).astype(int), -1, 0)
        segments = red + 256 * green + 256**2 * blue
        assert sorted(segment["id"] for segment in named["segments_info"]) == np.unique(segments).tolist()
        for segment in named["segments_info"]:
            np.testing.assert_array_equal(segments == segment["id"], mask == segment["category_id"])
    identifiers = [each["id"] for each in coco.anns.values()]
    assert len(set(identifiers)) == len(identifiers)


def test_label_studio(scenes, outputs, masks, id2label, tmp_path, run_command):
    assert run_command("export", outputs / "png", tmp_path / "out", "--format", "label-studio")[0] == 0
    view = xml.etree.ElementTree.parse(tmp_path / "out/label_config.xml").getroot()
    assert [label.get("value") for label in view.iter("Label")] == list(id2label.values())
    (brush,), (image,) = view.iter("BrushLabels"), view.iter("Image")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == sorted(f"{scenes}/{name}" for name in IMAGES)
    for task in tasks:
        mask = masks[task["data"]["image"].removeprefix(f"{scenes}/")]
        ((strokes,),) = [[prediction["result"] for prediction in task["predictions"]]]
        names = [id2label[class_id] for class_id in np.unique(mask)]
        assert [stroke["value"]["brushlabels"] for stroke in strokes] == [[name] for name in names]
        for stroke, class_id in zip(strokes, np.unique(mask), strict=True):
            assert (stroke["from_name"], stroke["to_name"]) == (brush.get("name"), image.get("name"))
            size = stroke["original_height"], stroke["original_width"]
            pixels = decode_rle(stroke["value"]["rle"]).reshape(*size, 4)
            np.testing.assert_array_equal(pixels, np.repeat((mask == class_id)[..., None] * 255, 4, axis=2))


def test_names_keep_the_tree_below_an_input_that_was_relative(scenes, outputs, tmp_path, run_command):
    """All images of that input are in one folder of it, which is a part of their names."""
    shutil.copytree(outputs / "png", tmp_path / "source")
    summary = json.loads((tmp_path / "source/summary.json").read_text())
    summary["options"]["input"] = f"./{scenes.parent.name}/"
    (tmp_path / "source/summary.json").write_text(json.dumps(summary))
    assert run_command("export", tmp_path / "source", tmp_path / "out", "--format", "png")[0] == 0
    assert f"masks/{scenes.name}/{STREET}" in files_of(tmp_path / "out")


def test_names_are_relative_to_the_folder_above_the_wildcards_of_a_glob(scenes, outputs, tmp_path, run_command):
    """As those of files that `predict` writes of it."""
    source = f"{scenes.parent}/{scenes.name[:-1]}[{scenes.name[-1]}]/**/*.*"
    named = {row["name"] for row in find_images(source).take(99)}
    shutil.copytree(outputs / "parquet", tmp_path / "source")
    summary = json.loads((tmp_path / "source/summary.json").read_text())
    summary["options"]["input"] = source
    (tmp_path / "source/summary.json").write_text(json.dumps(summary))
    assert run_command("export", tmp_path / "source", tmp_path / "out", "--format", "png")[0] == 0
    found = {name.removeprefix("masks/").removesuffix(".png") for name in files_of(tmp_path / "out")}
    assert {f"{scenes.name}/{name}" for name in ("a/1", STREET.removesuffix(".png"), "b/4")} <= found & named


def test_names_of_uris_are_not_percent_encoded(scenes, outputs, tmp_path, run_command):
    """As those of files that `predict` writes of them."""
    shutil.copytree(outputs / "parquet", tmp_path / "source")
    summary = json.loads((tmp_path / "source/summary.json").read_text())
    summary["options"]["input"] = "s3://bucket/in%20put"
    (tmp_path / "source/summary.json").write_text(json.dumps(summary))
    for shard in (tmp_path / "source/masks").iterdir():
        table = pa.parquet.read_table(shard)
        paths = [path.as_py().replace(f"{scenes}/", "s3://bucket/in%20put/%C3%A9%20") for path in table.column("path")]
        pa.parquet.write_table(table.set_column(0, "path", pa.array(paths)), shard)
    for file_format in ("png", "coco"):
        arguments = ("export", tmp_path / "source", tmp_path / file_format, "--format", file_format)
        assert run_command(*arguments)[0] == 0
    assert f"masks/é {STREET}" in files_of(tmp_path / "png")
    images = json.loads((tmp_path / "coco/annotations.json").read_text())["images"]
    assert {image["file_name"] for image in images} == {f"é {name}" for name in IMAGES}


def test_label_ids_of_cityscapes(outputs, masks, tmp_path, run_command):
    """Its evaluation looks in all folders for the one PNG whose name begins with city, sequence and frame."""
    shutil.copytree(outputs / "parquet", tmp_path / "source")
    names = ["road", "Traffic_Light", "lamp", "bicycle", "unlabeled", "sky", "person"]
    (tmp_path / "source/classes.json").write_text(json.dumps(dict(enumerate(names))))
    code, _, said = run_command("export", tmp_path / "source", tmp_path / "out", "--format", "cityscapes")
    assert code == 0 and said.count("1 of 7 classes become 0 (unlabeled), because Cityscapes has no") == 1
    assert "of their names: lamp [unlabeled-classes]\n" in said
    label_ids = np.array([7, 19, 0, 33, 0, 23, 24])
    assert json.loads((tmp_path / "out/label_ids.json").read_text()) == dict(zip(names, label_ids, strict=True))
    (warning,) = json.loads((tmp_path / "out/export.json").read_text())["warnings"]
    assert (warning["code"], warning["rows"]) == ("unlabeled-classes", 5)
    found = fnmatch.filter(files_of(tmp_path / "out"), "*/aachen_000000_000019*.png")
    assert found == [f"labelIds/{STREET}"]
    for name in (STREET, "a/1.png", "b/4.png"):
        with Image.open(tmp_path / "out/labelIds" / name) as opened:
            assert opened.mode == "L"
            np.testing.assert_array_equal(np.asarray(opened), label_ids[masks[name]])
    assert len(fnmatch.filter(files_of(tmp_path / "out"), "*.png")) == 5


def test_the_classes_of_cityscapes_have_the_ids_of_its_authors():
    """Those that count, in the order of the train ids, as cityscapesscripts 2.3.0 has them."""
    names = (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    )
    label_ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    cityscapes = Cityscapes(dict(enumerate(names)))
    assert cityscapes.guesses == []
    mask = np.arange(19, dtype=np.uint8)[None]
    (content,) = cityscapes.files(ExportImage("a.png", "a.png", "a", 0, mask, [*range(19)], [1] * 19)).values()
    assert np.asarray(decode(content)).tolist() == [label_ids]


def test_an_export_goes_on_where_it_was_interrupted(outputs, tmp_path, run_command):
    """First a mask is away, then the joint file cannot be written, and then all masks are away."""
    arguments = ["export", outputs / "png", tmp_path / "out", "--format", "coco", "--resume"]
    rows = pa.parquet.read_table(outputs / "png/rows").to_pylist()
    last = max(row["mask"] for row in rows if row["mask"])
    (outputs / "png" / last).rename(tmp_path / "last")
    code, _, said = run_command(*arguments)
    assert code != 0 and f"{last}: no such file, but its row is there" in said
    (tmp_path / "last").rename(outputs / "png" / last)
    assert not (tmp_path / "out/annotations.json").exists() and not (tmp_path / "out/export.json").exists()
    (tmp_path / "out/annotations.json").mkdir()
    code, _, said = run_command(*arguments)
    assert code == 2 and "annotations.json: cannot be written" in said
    assert not (tmp_path / "out/export.json").exists()
    (tmp_path / "out/annotations.json").rmdir()
    (outputs / "png/masks").rename(tmp_path / "masks")
    try:
        assert run_command(*arguments)[0] == 0  # what was done is not done again
    finally:
        (tmp_path / "masks").rename(outputs / "png/masks")
    assert run_command("export", outputs / "parquet", tmp_path / "whole", "--format", "coco")[0] == 0
    found, whole = ((tmp_path / name / "annotations.json").read_bytes() for name in ("out", "whole"))
    assert found == whole
    assert run_command(*arguments)[0] == 0  # it is finished: nothing is done again
    code, _, said = run_command("export", outputs / "parquet", tmp_path / "out", "--format", "png", "--resume")
    assert code == 2 and "format was coco, now png" in said


def test_an_unfinished_output_on_a_store_of_objects(outputs, object_store, tmp_path, run_command):
    """From S3 to S3. What a run leaves that is killed before its last file has its options in job.json."""
    store, options = object_store
    store.create_dir("exports")
    place = f"s3://nobody:top%2Fsecret@exports/{{}}{options}"
    pa.fs.copy_files(str(outputs / "parquet"), "exports/out", destination_filesystem=store)
    summary = json.loads((outputs / "parquet/summary.json").read_text())
    store.delete_file("exports/out/summary.json")
    with store.open_output_stream("exports/out/job.json") as file:
        file.write(json.dumps(summary["options"]).encode())
    last = max(info.path for info in store.get_file_info(pa.fs.FileSelector("exports/out/masks")))
    store.delete_file(last)
    code, printed, said = run_command("export", place.format("out"), place.format("coco"), "--format", "coco")
    assert code == 0 and "OUTPUT is not finished" in printed and "4 images: s3://exports/coco" in printed, said
    pa.fs.copy_files(str(outputs / "parquet"), "exports/out", destination_filesystem=store)
    code, _, again = run_command("export", place.format("out/"), place.format("coco"), "--format", "coco", "--resume")
    assert code == 2 and "coco is complete, but s3://exports/out/ has other images now; export them with" in again
    assert "secret" not in printed + said + again
    with store.open_input_file("exports/coco/annotations.json") as file:
        assert [image["file_name"] for image in json.load(file)["images"]] == [*IMAGES[:3], IMAGES[4]]
    with store.open_input_file("exports/coco/export.json") as file:
        assert b"secret" not in file.read()


def test_what_cannot_be_exported(outputs, tmp_path, run_command):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/summary.json").write_text("{}")
    for source, file_format in itertools.product(("other", "nothing"), FORMATS):
        code, _, said = run_command("export", tmp_path / source, tmp_path / "out", "--format", file_format)
        assert code == 2 and f"{tmp_path}/{source}: no output of ray-segformer predict" in said
    code, _, said = run_command("export", outputs / "png", tmp_path / "out", "--format", "png", "--panoptic")
    assert code == 2 and "--panoptic is for --format coco" in said
    code, _, said = run_command("export", outputs / "png", tmp_path / "other", "--format", "png")
    assert code == 2 and "name a new folder" in said
    with pytest.raises(ExportError, match="at most 256 classes"):
        Png({number: str(number) for number in range(300)})
    code, _, said = run_command("export", outputs / "png", tmp_path / "out", "--format", "cityscapes")
    assert code == 2 and "no class of this output has a name of Cityscapes" in said and "class 0, class 1, " in said


def test_an_output_with_other_files_of_rows_says_so_and_is_put_right_by_resume(
    scenes, outputs, small_dir, tmp_path, run_command
):
    output = tmp_path / "output"
    shutil.copytree(outputs / "parquet", output)

    def rows():
        return pa.parquet.read_table(output / "masks").sort_by("index").to_pylist()

    def said_of(command, *arguments):
        code, printed, said = run_command(command, output, *arguments)
        assert code == 2 and not printed and not (tmp_path / "out").exists()
        return said

    whole, (first, *_) = rows(), sorted((output / "masks").iterdir())
    pa.parquet.write_table(pa.parquet.read_table(first).drop(["class_ids", "error"]), first)  # as another program may
    for command in (("export", tmp_path / "out", "--format", "png"), ("report",)):
        assert f"{first}: has no column class_ids, error; another program wrote it. A damaged" in said_of(*command)
    shutil.copy(outputs / "parquet/masks" / first.name, first)
    content = first.read_bytes()
    first.write_bytes(content[:-9])
    for command in (("export", tmp_path / "out", "--format", "png"), ("report",)):
        said = said_of(*command)
        assert f"{first}: cannot be read: " in said and "A damaged file can be deleted: predict makes its" in said
    first.unlink()
    for command in (("export", tmp_path / "out", "--format", "coco"), ("report",)):
        said = said_of(*command)
        assert (
            f"{output}/masks: there are 2 files of rows, and summary.json counts 3; repair this with predict --resume"
            in said
        )
    options = ("--model", small_dir, "--on-error", "keep", "--workers", 1, "--shard-rows", 2)
    code, printed, _ = run_command("predict", scenes, output, *options, "--resume")
    assert code == 1 and "done before: 4 images" in printed and "6 images, 1 failed" in printed
    assert rows() == whole and first.exists()
    assert not (output / "job.json").exists()
    shutil.copy(first, output / "masks/part-copy.parquet")
    assert "there are 4 files of rows, and summary.json counts 3; repair this" in said_of("report")
    code, printed, _ = run_command("predict", scenes, output, *options, "--resume")
    assert code == 1 and "done before: 6 images" in printed and rows() == whole
    assert run_command("report", output)[0] == 0


def test_a_damaged_output_is_named(outputs, tmp_path, run_command):
    output = tmp_path / "output"
    shutil.copytree(outputs / "png", output)
    mask = output / "masks/b/4.png"
    Image.new("L", (9, 8)).save(mask)
    arguments = ["export", output, tmp_path / "out", "--format", "png", "--overwrite"]
    assert f"{mask}: has 8 x 9 pixels, and its row says 52 x 54" in run_command(*arguments)[2]
    mask.write_bytes(b"no mask")
    assert f"{mask}: not an image" in run_command(*arguments)[2]
    for name, text, wrong in (
        ("classes.json", '{"wall": "0"}', "expected names by class id: "),
        ("classes.json", "[1, 2]", "expected a JSON object, found [1, 2]"),
        ("summary.json", "null", "expected a JSON object, found null"),
        ("summary.json", "{", "cannot be read as JSON: "),
    ):
        (output / name).write_text(text)
        code, _, said = run_command("report", output)
        assert code == 2 and f"{output / name}: {wrong}" in said
        shutil.copy(outputs / "png" / name, output / name)


def test_recipes(scenes, outputs, masks, tmp_path, monkeypatch):
    """Each block of Python on the page, with a class of the small model called road."""
    shutil.copytree(outputs / "parquet", tmp_path / "segmented")
    road = next(number for number in range(7) if 0 < sum((mask == number).mean() > 0.1 for mask in masks.values()) < 5)
    names = {number: "road" if number == road else f"class {number}" for number in range(7)}
    (tmp_path / "segmented/classes.json").write_text(json.dumps(names))
    (tmp_path / "places.csv").write_text(
        f"path,longitude,latitude\n{os.path.relpath(scenes, tmp_path)}/b/4.png,-0.5,10.25\n{scenes}/{BROKEN},1.0,1.0\n"
    )
    rows = [row for row in pa.parquet.read_table(tmp_path / "segmented/masks").to_pylist() if row["error"] is None]
    of_row = {row["index"]: masks[row["path"].removeprefix(f"{scenes}/")] for row in rows}
    photos = {row["index"]: np.asarray(ImageOps.exif_transpose(Image.open(row["path"])).convert("RGB")) for row in rows}
    shares = {row["path"]: (of_row[row["index"]] == road).mean() for row in rows}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    duckdb, pandas, dataset, cut, black_and_white, from_exif, from_table, geojson = blocks
    scope: dict = {}

    exec(duckdb, scope)
    most = sorted(((path, share) for path, share in shares.items() if share > 0.1), key=lambda row: -row[1])
    assert [path for path, _ in scope["found"].fetchall()] == [path for path, _ in most]
    assert [share for _, share in scope["found"].fetchall()] == pytest.approx([share for _, share in most])

    exec(pandas, scope)
    assert dict(zip(*(scope["found"][name] for name in ("path", "share")), strict=True)) == pytest.approx(dict(most))
    of_classes = scope["shares"].set_index(["path", "class"])["share"]
    assert of_classes.to_dict() == pytest.approx(
        {
            (row["path"], names[number]): (of_row[row["index"]] == number).mean()
            for row in rows
            for number in np.unique(of_row[row["index"]]).tolist()
        }
    )

    exec(dataset, scope)
    assert len(scope["pairs"]) == 5
    for pair, index in zip(scope["pairs"], of_row, strict=True):
        np.testing.assert_array_equal(np.asarray(pair["image"]), photos[index])
        np.testing.assert_array_equal(np.asarray(pair["segmentation"]), of_row[index])

    exec(cut, scope)
    exec(black_and_white, scope)
    files = {row["index"]: f"{row['index']}_{Path(row['path']).stem}.png" for row in rows}
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "road") == set(files.values())
    for index, mask in of_row.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "road" / files[index])), (mask == road) * 255)
        cut_out = np.asarray(Image.open(tmp_path / "cut" / files[index]))
        np.testing.assert_array_equal(cut_out[..., :3], photos[index])
        np.testing.assert_array_equal(cut_out[..., 3], (mask == road) * 255)

    for block in (from_exif, from_table, geojson):
        exec(block, scope)
    written = json.loads((tmp_path / "road.geojson").read_text())
    assert written["type"] == "FeatureCollection" and {each["type"] for each in written["features"]} == {"Feature"}
    by_path = {each["properties"]["path"]: each for each in written["features"]}
    places = {path: each["geometry"]["coordinates"] for path, each in by_path.items()}
    assert {each["geometry"]["type"] for each in by_path.values()} == {"Point"}
    assert places.keys() == {f"{scenes}/{UPRIGHT_AFTER_TURNING}", f"{scenes}/b/4.png"}
    assert places[f"{scenes}/{UPRIGHT_AFTER_TURNING}"] == pytest.approx([151.20833333, -33.86944444])
    assert places[f"{scenes}/b/4.png"] == [-0.5, 10.25]
    for path, each in by_path.items():
        assert each["properties"]["road"] == pytest.approx(shares[path])


def test_images_that_came_later_have_names_and_ids_of_their_own(small_dir, tmp_path, run_command):
    """Names are relative to the deepest folder of a list, which is another one where the list has grown."""
    images = {"a/b/1.png": (40, 50), "a/1.png": (60, 33), "a/b/2.png": (45, 70)}
    for number, (name, (height, width)) in enumerate(images.items()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(height, width, number)).save(tmp_path / name)
    arguments = ["predict", tmp_path / "list.txt", tmp_path / "out", "--model", small_dir, "--workers", "1"]
    arguments += ["--format", "png", "--overlay"]
    for listed in (["a/b/1.png"], ["a/1.png", "a/b/1.png", "a/b/2.png"]):
        (tmp_path / "list.txt").write_text("\n".join(listed))
        code, _, said = run_command(*arguments, "--resume")
        assert code == 0, said
    rows = pa.parquet.read_table(tmp_path / "out/rows").to_pylist()
    assert len({row["mask"] for row in rows}) == len(list((tmp_path / "out/overlays").rglob("*.jpg"))) == 3
    for row in rows:
        size = Image.open(tmp_path / "out" / row["mask"]).size[::-1]
        assert size == (row["height"], row["width"]) == images[Path(row["path"]).relative_to(tmp_path).as_posix()]

    assert run_command("export", tmp_path / "out", tmp_path / "coco", "--format", "coco")[0] == 0
    coco = COCO(tmp_path / "coco/annotations.json")
    assert sorted(image["file_name"] for image in coco.imgs.values()) == ["1.png", "b/1.png", "b/2.png"]
    for number, image in coco.imgs.items():
        areas = [each["area"] for each in coco.loadAnns(coco.getAnnIds(imgIds=number))]
        assert sum(areas) == image["height"] * image["width"]

    (tmp_path / "list.txt").write_text("\n".join([*images, "a/b/3.png"]))
    code, _, said = run_command(*arguments, "--resume", "--gpus-per-worker", "1")
    assert (code, said.count("\n")) == (2, 1) and "has 0 GPU(s)" in said
    assert (tmp_path / "out/summary.json").exists()  # the run that was finished still is


def test_names_that_are_no_utf8_and_folders_that_are_called_as_ours(small_dir, tmp_path, run_command):
    folder = tmp_path / "in"
    for number, name in enumerate((b"a.tif", b"records/b.tif", b".records/c.tif", b"d\xe9.tif")):
        path = os.fsencode(folder) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(picture(40, 50, number)).save(os.fsdecode(path))
    (tmp_path / "list.txt").write_text("in/a.tif\nin/.records/c.tif")
    for source, names in ((folder, ["a", "d%E9", "records/b"]), (tmp_path / "list.txt", [".records/c", "a"])):
        output = tmp_path / source.stem
        output = output.with_name(f"{output.name}_out")
        assert run_command("predict", source, output, "--model", small_dir, "--workers", "1")[0] == 0
        for file_format in ("png", "coco"):
            code, _, said = run_command("export", output, output / file_format, "--format", file_format)
            assert code == 0, said
        masks = {name for name in files_of(output / "png") if name.startswith("masks/")}
        assert masks == {f"masks/{name}.png" for name in names}
        coco = COCO(output / "coco/annotations.json")
        assert sorted(image["file_name"] for image in coco.imgs.values()) == [f"{name}.tif" for name in names]
        if source == folder:
            os.unlink(os.fsencode(folder) + b"/d\xe9.tif")
            continue
        code, _, said = run_command("export", output, output / "geotiff", "--format", "geotiff")
        assert code == 0, said
        assert {".records/c.tif", "a.tif"} <= {*files_of(output / "geotiff")}
