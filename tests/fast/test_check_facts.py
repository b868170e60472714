"""What `ray-segformer check` makes of images and annotations: facts, totals and findings, without Ray."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from reference import encode, objects, picture

from ray_segformer import SegformerPreprocessor
from ray_segformer._labels import Labels
from ray_segformer.cli import main
from ray_segformer.images import read_header
from ray_segformer.inputs import InputError, find_annotated, find_input
from ray_segformer.jobs._facts import ReadFacts
from ray_segformer.jobs._findings import findings_of_annotations, findings_of_images, findings_of_pairs
from ray_segformer.jobs._resizing import kept_of
from ray_segformer.jobs._totals import Sizes, Totals

PHOTO = Image.fromarray(picture(20, 30))
OTHER = Image.fromarray(picture(20, 30, seed=1)[::-1])
NO_MODEL = 2**16  # classes


def ids(*values: int, height: int = 20, width: int = 30) -> bytes:
    """An annotation whose columns have these ids, in turn."""
    kind = np.uint16 if max(values) > 255 else np.uint8
    return encode(np.tile(np.resize(np.array(values, kind), width), (height, 1)))


def totals_of(annotations: list, labels: Labels, image: object = None) -> Totals:
    """The totals of images with these annotations, which are PNGs of 20 x 30 pixels."""
    image = encode(PHOTO) if image is None else image
    batch = {
        "path": np.array([f"{number}.png" for number in range(len(annotations))]),
        "image": objects(*[image] * len(annotations)),
        "annotation": objects(*annotations),
    }
    totals = Totals(has_colors=labels.has_colors)
    for facts in ReadFacts(labels)(batch)["facts"]:
        totals.add(json.loads(facts))
    return totals


def codes_of(annotations: list, labels: Labels, names: dict[int, str] | None = None) -> dict[str, str]:
    """The messages of the findings about annotations, by their codes."""
    found = findings_of_annotations(totals_of(annotations, labels), labels, names)
    assert len({finding.code for finding in found}) == len(found)
    return {finding.code: finding.message for finding in found}


# Files


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(9))
def test_the_size_of_an_image_is_the_one_it_is_shown_with(orientation, file_format):
    exif = Image.Exif()
    exif[0x112] = orientation
    header = read_header(encode(PHOTO, file_format, exif=exif))
    assert (header.height, header.width) == ((30, 20) if orientation in (5, 6, 7, 8) else (20, 30))
    assert header.exif_rotated == (2 <= orientation <= 8)


@pytest.mark.parametrize(
    ("image", "file_format", "options", "kind", "lossy"),
    [
        (PHOTO, "JPEG", {}, "JPEG RGB", "JPEG"),
        (PHOTO.convert("CMYK"), "JPEG", {}, "JPEG CMYK", "JPEG"),
        (PHOTO.convert("P"), "PNG", {}, "PNG P", None),
        (PHOTO.convert("LA"), "PNG", {}, "PNG LA", None),
        (PHOTO, "WEBP", {"lossless": True}, "WEBP RGB", None),
        (PHOTO, "MPO", {"save_all": True, "append_images": [OTHER]}, "MPO RGB", "JPEG"),
        (PHOTO, "TIFF", {}, "TIFF RGB", None),
    ],
)
def test_kinds_of_files(image, file_format, options, kind, lossy):
    header = read_header(encode(image, file_format, **options))
    assert (header.kind, header.lossy) == (kind, lossy)
    assert not (header.deep or header.several_frames or header.exif_rotated)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_more_than_one_frame(file_format):
    assert read_header(encode(PHOTO.copy(), file_format, save_all=True, append_images=[OTHER.copy()])).several_frames


def test_more_than_eight_bits():
    assert read_header(encode(np.full((5, 7), 40000, np.uint16))).deep
    assert read_header(encode(np.full((5, 7), 40000, np.uint16), "TIFF")).deep
    assert read_header(encode(np.full((5, 7), 0.5, np.float32), "TIFF")).deep


def test_whatever_a_cell_holds_it_is_counted():
    cells = [encode(PHOTO), None, b"", 7, "no/such/file.png", encode(PHOTO)[:200], {"bytes": None, "path": None}]
    batch = {"path": np.array([str(number) for number in range(len(cells))]), "image": objects(*cells)}
    totals = Totals()
    for facts in ReadFacts(Labels(2), max_pixels=600)(batch)["facts"]:
        totals.add(json.loads(facts))
    assert totals.rows == 7 and totals.images.kinds == {"PNG RGB": 1}
    expected = {"null": 2, "empty": 1, "wrong type": 1, "cannot read": 1, "cannot decode": 1}
    unreadable = totals.images.unreadable.as_json()
    assert {cause: case["rows"] for cause, case in unreadable.items()} == expected
    assert unreadable["null"]["path"] == "1"
    (finding,) = findings_of_images(totals)
    assert (finding.code, finding.rows, finding.path) == ("unreadable-image", 6, "1")
    assert all(f"{count} {cause}" in finding.message for cause, count in expected.items())


def test_the_median_is_the_size_of_an_image():
    sizes = Sizes()
    for height, width in [(4000, 600), (7, 5), (100_000, 2), (10, 10)]:
        sizes.add(height, width)
    assert sizes.by_rank() == {"smallest": (7, 5), "median": (10, 10), "largest": (4000, 600)}
    assert Sizes().by_rank() == {}


# Preprocessing


def test_what_squashing_keeps():
    kept = kept_of(SegformerPreprocessor(512), 600, 4000)
    assert (kept.rows, kept.columns) == (pytest.approx(512 / 600), pytest.approx(0.128))
    assert kept.aspect_change == pytest.approx(4000 / 600)
    assert kept.is_squashed and not kept.is_shrunk
    expected = "600 x 4000 becomes 512 x 512, which keeps 85% of the rows and 13% of the columns, and changes the "
    assert str(kept) == expected + "aspect ratio by 6.7"
    assert kept_of(SegformerPreprocessor(512), 8192, 8192).is_shrunk
    assert not kept_of(SegformerPreprocessor(512), 3000, 4000).is_shrunk
    usual = kept_of(SegformerPreprocessor(512), 48, 64)
    assert usual.aspect_change == pytest.approx(4 / 3) and not (usual.is_squashed or usual.is_shrunk)
    assert (usual.rows, usual.columns) == (1, 1)
    by_edge = kept_of(SegformerPreprocessor({"shortest_edge": 300}), 600, 4000)
    assert (by_edge.resized_height, by_edge.resized_width, by_edge.aspect_change) == (300, 2000, 1)
    untouched = kept_of(SegformerPreprocessor(do_resize=False), 600, 4000)
    assert str(untouched) == "600 x 4000 stays as it is"


# Annotations


def test_masks_of_0_and_255_are_found_with_and_without_a_model():
    masks = [ids(0, 255), ids(0)]
    for labels, names in ((Labels(NO_MODEL), None), (Labels(3), {0: "a", 1: "b", 2: "c"})):
        (code, message), *others = codes_of(masks, labels, names).items()
        assert code == "only-background" and "hold only 0 and 255" in message and not others
    assert codes_of(masks, Labels(NO_MODEL, label_map={255: 1})) == {}
    assert codes_of(masks, Labels(2, label_map={255: 1}), {0: "a", 1: "b"}) == {}
    assert codes_of(masks, Labels(2, ignore_index=255), {0: "a", 1: "b"}).keys() == {"class-never-annotated"}
    assert codes_of([ids(255)], Labels(NO_MODEL)).keys() == {"all-ignored"}
    assert codes_of([ids(0, 255, 7)], Labels(NO_MODEL)) == {}


def test_unknown_ids_are_named_as_the_files_have_them():
    labels = Labels(3, reduce_labels=True)
    found = codes_of([ids(0, 1, 2, 3, 9, 255), ids(0, 9)], labels, {0: "a", 1: "b", 2: "c"})
    assert list(found) == ["unknown-class-id"]
    # 5 columns and 15 columns of 20 pixels have 9.
    assert found["unknown-class-id"].startswith("the class ids 9 (in 400 of 1200 pixels) are none of the model's 3 ")
    assert all(text in found["unknown-class-id"] for text in ("1 to 3", "--label-map 9=", "--ignore-index 9", "as-is"))
    totals = totals_of([ids(0, 1), ids(0, 9)], labels)
    (finding,) = [one for one in findings_of_annotations(totals, labels, None) if one.code == "unknown-class-id"]
    assert (finding.rows, finding.path) == (1, "1.png")


def test_annotations_that_hold_no_ids():
    colors = encode(PHOTO)
    annotations = [colors, encode(PHOTO.convert("L"), "JPEG"), ids(0, 1, width=29), b"", ids(0, 1)]
    labels = Labels(2)
    found = {one.code: one for one in findings_of_annotations(totals_of(annotations, labels), labels, {0: "", 1: ""})}
    expected = {"annotation-in-colors": "0.png", "lossy-annotation": "1.png", "annotation-size": "2.png"}
    expected["unreadable-annotation"] = "3.png"
    assert {code: (one.rows, one.path) for code, one in found.items()} == {
        code: (1, path) for code, path in expected.items()
    }
    assert "20 x 29 pixels, but its image has 20 x 30" in found["annotation-size"].message
    assert "--label-colors" in found["annotation-in-colors"].message
    labels = Labels(2, label_colors={(1, 2, 3): 1})
    found = codes_of([colors], labels, {0: "", 1: ""})
    assert list(found) == ["color-without-class"] and "stand for no class" in found["color-without-class"]


def test_annotations_of_an_image_that_cannot_be_read_have_no_other_size():
    labels = Labels(2)
    totals = totals_of([ids(0, 1)], labels, image=b"")
    assert findings_of_annotations(totals, labels, {0: "", 1: ""}) == []


def test_annotations_that_are_missing_are_counted_once():
    totals = totals_of([None, ids(0, 1), {"bytes": None, "path": None}], Labels(2))
    (finding,) = findings_of_pairs(totals, [], [])
    assert (finding.code, finding.rows, finding.path) == ("no-annotation", 2, "0.png")
    none, extra = findings_of_pairs(totals, ["a.jpg", "b.jpg", "c.jpg"], ["d.png"])
    assert (none.code, none.rows, none.path) == ("no-annotation", 3, "a.jpg")
    assert (extra.code, extra.rows, extra.path) == ("no-image", 1, "d.png")


# Files that are missing


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_missing_files_of_every_layout_are_listed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"city/leftImg8bit/val/ulm/{name}_leftImg8bit.png")
        write(tmp_path / f"voc/JPEGImages/{name}.jpg")
        write(tmp_path / f"plain/images/x/{name}.jpg")
    for name in ("b", "c"):
        write(tmp_path / f"city/gtFine/val/ulm/{name}_gtFine_labelIds.png", ids(7))
        write(tmp_path / f"voc/SegmentationClass/{name}.png")
        write(tmp_path / f"plain/masks/x/{name}.png")
    write(tmp_path / "voc/ImageSets/Segmentation/val.txt", b"a\nb\n")
    without_image = {"city": ["ulm/c_gtFine_labelIds.png"], "voc": [], "plain": ["x/c.png"]}  # VOC lists its images
    for layout, extra in without_image.items():
        found = find_input(str(tmp_path / layout))
        assert found.rows == 2 and len(found.without_annotation) == 1
        assert found.without_annotation[0].rpartition("/")[2].startswith("a")
        assert [path.endswith(name) for path, name in zip(found.without_image, extra, strict=True)] == [True] * len(
            extra
        )
        with pytest.raises(InputError, match="has no annotation"):
            find_annotated(str(tmp_path / layout))
    beside = find_input(str(tmp_path / "plain/images"), annotations=str(tmp_path / "plain/masks"))
    assert len(beside.without_annotation) == len(beside.without_image) == 1
    assert not hasattr(find_input(str(tmp_path / "plain/images")), "without_image")  # images alone


# The command, before Ray starts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no such file or folder"),
        (("--label-colors", "colors.txt"), "name the model with --model"),
        (("--label-map", "255"), "expected FROM=TO"),
        (("--labels", "reduce", "--ignore-index", "0"), "--labels, --ignore-index: the input has no annotations"),
        (("--split", "val"), "no split 'val'"),
        (("--model", ""), "the name of the model is empty"),
    ],
)
def test_what_cannot_be_checked(options, message, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encode(PHOTO))
    source = tmp_path / ("photos" if options else "nowhere")
    assert main(["check", str(source), *options]) == 2
    assert message in capsys.readouterr().err
