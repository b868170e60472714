"""`ray-segformer check` on a folder that holds every fault, and on one without faults."""

import functools
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from reference import encode, picture, save_small, small_model

from ray_segformer._labels import Labels
from ray_segformer.inputs import find_input
from ray_segformer.jobs import check

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def command(run_command):
    """Runs the command with the session's Ray."""
    return functools.partial(run_command, "check")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of four classes, which resizes images to 64 x 96."""
    return save_small(tmp_path_factory.mktemp("model") / "model", small_model(4))


def ids(*values, height=20, width=30):
    """A PNG whose rows have these ids, an equal number each."""
    kind = np.uint16 if max(values) > 255 else np.uint8
    return encode(np.repeat(np.array(values, kind), height // len(values))[:, None].repeat(width, axis=1))


def write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Every fault once or twice: 18 images, 11 of them of 20 x 30 pixels, with annotations."""
    root = tmp_path_factory.mktemp("faulty")
    photo, other = Image.fromarray(picture()), Image.fromarray(picture(seed=1)[::-1])
    turned = Image.Exif()
    turned[0x112] = 6  # a quarter turn: 30 rows of 20 pixels are shown as 20 of 30
    jpeg, plain, colors = encode(photo, "JPEG"), ids(0, 1), np.zeros((20, 30, 3), np.uint8)
    colors[:10] = (128, 0, 0)
    images = {
        "turned.jpg": encode(Image.fromarray(picture(30, 20)), "JPEG", exif=turned),
        "palette.png": encode(photo.convert("P")),
        "cmyk.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "deep.png": encode(np.full((20, 30), 40000, np.uint16)),
        "moving.gif": encode(photo.copy(), "GIF", save_all=True, append_images=[other]),
        "truncated.jpg": jpeg[:-100],
        "empty.png": b"",
        "text.png": b"<html>404</html>",
        "html.png": b"<html>403</html>",
        "large.png": encode(np.zeros((400, 401), np.uint8)),  # above --max-pixels
        "wide.png": encode(picture(20, 400)),
        "tall.png": encode(picture(600, 200)),
        "tall_mask.png": plain,
        **dict.fromkeys(("alone.jpg", "small.jpg", "lossy.jpg", "colors.jpg", "broken.jpg"), jpeg),
    }
    write(root / "images", {**images, ".hidden.jpg": jpeg, "notes.psd": b"8BPS"})
    names = ("deep", "moving", "truncated", "empty", "text", "html", "large", "nobody")
    masks = {
        **dict.fromkeys((f"{name}.png" for name in names), plain),
        "turned.png": ids(0, 2),
        "palette.png": ids(0, 1, 7, 255),
        "cmyk.png": ids(0, 1, 7, 300),
        "wide.png": ids(0, 1, width=400),
        "tall.png": ids(1, height=600, width=200),
        "small.png": ids(0, 1, height=10, width=15),
        "lossy.jpg": encode(Image.fromarray(np.zeros((20, 30), np.uint8)), "JPEG"),
        "colors.png": encode(colors),
        "broken.png": b"oops",
    }
    write(root / "masks", masks)
    write(root / "binary", {"turned.png": ids(0, 255), "palette.png": ids(0)})
    return root


def test_every_fault_is_found(command, faulty, model):
    there = sorted(faulty.rglob("*"))
    code, printed, error = command(faulty, "--model", model, "--max-pixels", 400 * 400, "--json")
    assert code == 1, error
    report = json.loads(printed)
    assert (report["rows"], report["looked_at"]) == (18, 18)

    images = report["images"]
    one_each = dict.fromkeys(("PNG L", "JPEG CMYK", "PNG I;16", "GIF P", "PNG P"), 1)
    assert images["kinds"] == {"JPEG RGB": 6, "PNG RGB": 2, **one_each}
    names = {"exif_rotated": "turned.jpg", "deep": "deep.png", "several_frames": "moving.gif"}
    folder = str(faulty / "images")
    assert {trait: (case["rows"], case["path"]) for trait, case in images["traits"].items()} == {
        trait: (1, f"{folder}/{name}") for trait, name in names.items()
    }
    assert {cause: (case["rows"], case["path"].rpartition("/")[2]) for cause, case in images["unreadable"].items()} == {
        "not an image": (2, "html.png"),
        "empty": (1, "empty.png"),
        "too large": (1, "large.png"),
        "cannot decode": (1, "truncated.jpg"),
    }
    assert images["sizes"] == {
        "smallest": {"height": 20, "width": 30},
        "median": {"height": 20, "width": 30},
        "largest": {"height": 600, "width": 200},
    }
    assert {case["code"]: case["rows"] for case in report["not_looked_at"]} == {"hidden-files": 1, "other-files": 1}

    annotations = report["annotations"]
    assert annotations["kinds"] == {"PNG L": 12, "PNG I;16": 1}
    assert annotations["unreadable"]["not an image"]["rows"] == 1
    # Seven plain ones have 300 pixels of 0 and 300 of 1.
    zero, one = 7 * 300 + 300 + 150 + 150 + 4000 + 75, 7 * 300 + 150 + 150 + 4000 + 120_000 + 75
    assert [(entry["id"], entry["name"], entry["pixels"], entry["images"]) for entry in annotations["classes"]] == [
        *((0, "class 0", zero, 12), (1, "class 1", one, 12), (2, "class 2", 300, 1), (3, "class 3", 0, 0)),
        *((7, None, 300, 2), (300, None, 150, 1)),
    ]
    assert annotations["classes"][1]["share"] == pytest.approx(one / (zero + one + 300 + 300 + 150))
    assert annotations["ignored_pixels"] == 150

    preprocessing = report["preprocessing"]
    assert preprocessing["size"] == {"height": 64, "width": 96}
    assert preprocessing["most_squashed"]["path"] == f"{folder}/wide.png"
    assert preprocessing["most_squashed"]["aspect_change"] == pytest.approx((64 / 20) / (96 / 400))
    assert preprocessing["most_shrunk"]["path"] == f"{folder}/tall.png"
    assert preprocessing["most_shrunk"]["rows"] == pytest.approx(64 / 600)

    found = {finding["code"]: finding for finding in report["findings"]}
    assert {code: (finding["rows"], (finding["path"] or "").rpartition("/")[2]) for code, finding in found.items()} == {
        "other-files": (1, ""),
        "looks-like-masks": (1, ""),
        "unreadable-image": (5, "html.png"),
        "first-frame-only": (1, "moving.gif"),
        "squashed": (2, "wide.png"),
        "shrunk": (1, "tall.png"),
        "no-annotation": (2, "alone.jpg"),
        "no-image": (1, "nobody.png"),
        "unreadable-annotation": (1, "broken.jpg"),
        "annotation-size": (1, "small.jpg"),
        "lossy-annotation": (1, "lossy.jpg"),
        "annotation-in-colors": (1, "colors.jpg"),
        "unknown-class-id": (2, "cmyk.jpg"),
        "class-never-annotated": (None, ""),
    }
    assert "7, 300 (in 450 of 134150 pixels)" in found["unknown-class-id"]["message"]
    assert sorted(faulty.rglob("*")) == there


def test_masks_of_0_and_255_beside_images_in_words(command, faulty, model, tmp_path):
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    options = ("--annotations", faulty / "binary", "--model", bare, "--exclude", "*_mask.png")
    code, printed, error = command(faulty / "images", *options)
    assert code == 1, error
    lines = printed.splitlines()
    assert lines[0] == f"{faulty}/images: looked at 17 of 17 images"
    pixels = [line.split() for line in lines if line.startswith(("  0 class 0", "  ignored"))]
    assert pixels == [["0", "class", "0", "100.00%"], ["ignored", "25.00%"]]
    found = {line.strip().split(": ")[0]: line for line in lines[lines.index("findings") + 1 :]}
    assert "hold only 0 and 255" in found["only-background"]
    assert found["no-annotation"].startswith("  no-annotation: 15 images have no annotation")
    assert "images are resized to 512 x 512" in found["no-preprocessor-config"]
    assert "looks-like-masks" not in found and "warning" not in error
    # 20 x 400 to 512 x 512
    assert "by 2 or more: 20 x 400 becomes 512 x 512, which keeps 100% of the rows" in found["squashed"]


def test_a_sound_dataset(command, model, tmp_path):
    for kind, content in (
        ("images", encode(picture(64, 96), "JPEG")),
        ("labels", ids(0, 1, 2, 3, height=64, width=96)),
    ):
        suffix = "jpg" if kind == "images" else "png"
        write(tmp_path / "data" / kind, {f"{number}.{suffix}": content for number in range(3)})
    code, printed, error = command(tmp_path / "data", "--model", model)
    assert code == 0, printed + error
    assert printed.splitlines()[-1] == "no findings"
    assert printed.count("25.00%") == 4


def test_a_sample_is_spread_over_files_and_over_row_groups(tmp_path):
    write(tmp_path / "photos", {f"{number}.png": encode(picture(5, number + 1)) for number in range(10)})
    report = check(find_input(str(tmp_path / "photos")), Labels(2), sample=3)
    assert (report["rows"], report["looked_at"], report["annotations"]) == (10, 3, None)
    assert [report["images"]["sizes"][name]["width"] for name in ("smallest", "median", "largest")] == [1, 5, 10]
    rows = [{"image": encode(picture(5, number + 1)), "annotation": ids(0, 1)} for number in range(100)]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=2)
    report = check(find_input(str(tmp_path / "rows.parquet")), Labels(2), sample=32)
    assert (report["rows"], report["looked_at"]) == (100, 32)
    assert report["annotations"]["kinds"] == {"PNG L": 32}
    assert report["images"]["sizes"]["largest"]["width"] == 99  # the first row of the last group
