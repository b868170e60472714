"""The generated scenes, and the packaged checkpoint that was trained on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation

import ray_segformer.demo
from ray_segformer.cli import main
from ray_segformer.demo import CLASSES, PALETTE, make_scene, write_scenes

CHECKPOINT = Path(ray_segformer.demo.__file__).parent / "checkpoint"
CHECKPOINT_FILES = {"config.json", "training.json", "model.safetensors", "preprocessor_config.json"}
ROOT = Path(ray_segformer.demo.__file__).parents[2]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )


def load_processor(directory: Path):
    """Return transformers' image processor that uses Pillow; its name depends on the version."""
    try:
        from transformers import SegformerImageProcessorPil as Processor
    except ImportError:
        from transformers import SegformerImageProcessor as Processor
    return Processor.from_pretrained(directory)


def test_classes_and_palette_belong_together():
    assert CLASSES == ("sky", "ground", "road", "building", "tree", "car", "person", "water")
    assert PALETTE.shape == (8, 3)
    assert PALETTE.dtype == np.uint8
    assert len({tuple(colour) for colour in PALETTE.tolist()}) == 8


def test_scenes_need_neither_torch_nor_transformers_nor_ray():
    code = (
        "import sys, ray_segformer.demo as demo; demo.make_scene(0, 32, 32);"
        "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    finished = run_python("-c", code)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [(120, 160), (97, 211)])
def test_same_seed_gives_same_scene(size):
    first, second = make_scene(5, *size), make_scene(5, *size)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_same_scene_in_another_process():
    code = "import zlib; from ray_segformer.demo import make_scene; p, m = make_scene(11, 90, 120);"
    code += "print(zlib.crc32(p.tobytes()), zlib.crc32(m.tobytes()))"
    one, two = run_python("-c", code), run_python("-c", code)
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout
    assert len(one.stdout.split()) == 2


def test_different_seeds_give_different_scenes():
    scenes = [make_scene(seed, 60, 80) for seed in range(8)]
    assert len({picture.tobytes() for picture, _ in scenes}) == 8
    assert len({mask.tobytes() for _, mask in scenes}) == 8


@pytest.mark.parametrize(
    "size", [(16, 16), (17, 31), (16, 400), (400, 16), (101, 37), (240, 320), (480, 640), (333, 777)]
)
@pytest.mark.parametrize("seed", [0, 7, 13, 2**40])
def test_shapes_dtypes_and_ids(size, seed):
    picture, mask = make_scene(seed, *size)
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.uint8
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert mask.max() < len(CLASSES)


def test_default_size():
    picture, mask = make_scene(1)
    assert picture.shape == (480, 640, 3)
    assert mask.shape == (480, 640)


@pytest.mark.slow
def test_tiny_scenes_of_many_seeds():
    for seed in range(150):
        _, mask = make_scene(seed, 16, 16)
        assert mask.max() < len(CLASSES)


def test_every_class_occurs_and_none_is_a_speck():
    counts = np.zeros(len(CLASSES), dtype=np.int64)
    scenes_with = np.zeros(len(CLASSES), dtype=np.int64)
    for seed in range(40):
        found = np.bincount(make_scene(seed, 120, 160)[1].ravel(), minlength=len(CLASSES))
        counts += found
        scenes_with += found > 0
    assert (scenes_with >= 8).all(), dict(zip(CLASSES, scenes_with.tolist(), strict=True))
    assert (counts / counts.sum() > 0.005).all(), dict(zip(CLASSES, counts.tolist(), strict=True))


def test_mask_fits_the_picture():
    """The sky is brighter than the road, and the ground is below the sky."""
    for seed in range(20):
        picture, mask = make_scene(seed, 120, 160)
        sky, road = mask == CLASSES.index("sky"), mask == CLASSES.index("road")
        ground = mask == CLASSES.index("ground")
        rows = np.arange(120)[:, None] * np.ones((1, 160))
        assert rows[sky].mean() < rows[ground].mean()
        if road.sum() > 200:
            # The upper sky can be dark at dusk, but not the lower one.
            low_sky = sky & (rows > np.percentile(rows[sky], 70))
            assert picture[low_sky].mean() > picture[road].mean()


@pytest.mark.slow
def test_masks_never_blend():
    """Only sky, buildings and trees reach the top. Averages of their ids would be ground or road."""
    allowed = {CLASSES.index(name) for name in ("sky", "building", "tree")}
    found = set()
    for seed in range(40):
        found |= set(np.unique(make_scene(seed, 240, 320)[1][:9]).tolist())
    assert found == allowed


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("seed", (-1, 32, 32)),
        ("seed", (1.5, 32, 32)),
        ("seed", ("1", 32, 32)),
        ("seed", (True, 32, 32)),
        ("height", (0, 15, 32)),
        ("height", (0, 32.0, 32)),
        ("width", (0, 32, 15)),
        ("width", (0, 32, None)),
    ],
)
def test_make_scene_refuses(name, arguments):
    position = ("seed", "height", "width").index(name)
    with pytest.raises(ValueError, match=rf"^{name} must be an integer of at least \d+, got ") as caught:
        make_scene(*arguments)
    assert repr(arguments[position]) in str(caught.value)


def test_written_files_hold_the_scenes(tmp_path):
    target = tmp_path / "new" / "data"
    write_scenes(target, 3, seed=20, height=48, width=64)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*.*")) == [
        "annotations/scene_00000.png",
        "annotations/scene_00001.png",
        "annotations/scene_00002.png",
        "images/scene_00000.jpg",
        "images/scene_00001.jpg",
        "images/scene_00002.jpg",
    ]
    for number in range(3):
        picture, mask = make_scene(20 + number, 48, 64)
        with Image.open(target / f"annotations/scene_{number:05d}.png") as written:
            assert written.mode == "L"
            np.testing.assert_array_equal(np.asarray(written), mask)
        with Image.open(target / f"images/scene_{number:05d}.jpg") as written:
            assert (written.format, written.mode, written.size) == ("JPEG", "RGB", (64, 48))
            difference = np.asarray(written).astype(int) - picture
        # JPEG is not exact, but another scene would differ far more.
        assert np.abs(difference).mean() < 8


def test_written_sizes_vary_only_when_asked(tmp_path):
    write_scenes(str(tmp_path / "same"), 4, height=40, width=60)
    write_scenes(tmp_path / "varied", 6, height=40, width=60, vary_size=True)
    write_scenes(tmp_path / "again", 6, height=40, width=60, vary_size=True)
    sizes = {}
    for name in ("same", "varied", "again"):
        sizes[name] = [Image.open(path).size for path in sorted((tmp_path / name / "images").iterdir())]
    assert sizes["same"] == [(60, 40)] * 4
    assert sizes["varied"] == sizes["again"]
    assert len(set(sizes["varied"])) > 3
    assert all(45 <= width <= 75 and 30 <= height <= 50 for width, height in sizes["varied"])
    for picture, mask in zip(
        sorted((tmp_path / "varied/images").iterdir()), sorted((tmp_path / "varied/annotations").iterdir()), strict=True
    ):
        assert Image.open(picture).size == Image.open(mask).size


def test_writing_nothing_makes_empty_directories(tmp_path):
    write_scenes(tmp_path, 0)
    assert list((tmp_path / "images").iterdir()) == []
    assert list((tmp_path / "annotations").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("count", -1), ("count", 2.0), ("seed", -1), ("height", 8), ("width", "64")]
)
def test_write_scenes_refuses_before_it_writes(tmp_path, name, value):
    arguments = {"count": 1, "seed": 0, "height": 32, "width": 32, name: value}
    target = tmp_path / "out"
    with pytest.raises(ValueError, match=f"^{name} must be an integer"):
        write_scenes(target, arguments.pop("count"), **arguments)
    assert not target.exists()


def test_packaged_checkpoint_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert set(files) == CHECKPOINT_FILES
    assert sum(files.values()) <= 4 * 1024 * 1024, files
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    assert [config["id2label"][str(number)] for number in range(8)] == list(CLASSES)
    assert config["label2id"] == {name: number for number, name in enumerate(CLASSES)}


@pytest.mark.slow
def test_packaged_checkpoint_segments_held_out_scenes():
    """The checkpoint works in plain transformers, without this package."""
    model = SegformerForSemanticSegmentation.from_pretrained(CHECKPOINT).eval()
    processor = load_processor(CHECKPOINT)
    confusion = np.zeros((8, 8), dtype=np.int64)
    for seed in range(24):
        picture, mask = make_scene(seed, 480, 640)
        inputs = processor(Image.fromarray(picture), return_tensors="pt")
        assert tuple(inputs["pixel_values"].shape) == (1, 3, 320, 320)
        with torch.inference_mode():
            outputs = model(**inputs)
        predicted = processor.post_process_semantic_segmentation(outputs, target_sizes=[(480, 640)])[0]
        confusion += np.bincount(mask.ravel().astype(np.int64) * 8 + predicted.numpy().ravel(), minlength=64).reshape(
            8, 8
        )
    correct = np.diag(confusion)
    iou = correct / (confusion.sum(axis=0) + confusion.sum(axis=1) - correct)
    assert iou.mean() >= 0.85, dict(zip(CLASSES, iou.round(3).tolist(), strict=True))


def test_published_metrics_are_plausible():
    metrics = json.loads((CHECKPOINT / "training.json").read_text(encoding="utf-8"))
    assert set(metrics["iou"]) == set(CLASSES)
    assert metrics["miou"] == pytest.approx(np.mean(list(metrics["iou"].values())), abs=1e-3)
    assert metrics["held_out_seeds"] == [0, 199]
    assert metrics["miou"] >= 0.85


def test_the_command_replaces_no_output_of_another(tmp_path, capsys):
    (tmp_path / "out/masks").mkdir(parents=True)
    (tmp_path / "out/masks/a.png").write_bytes(b"1")
    (tmp_path / "out/summary.json").write_text('{"finished": true}')
    assert main(["demo", str(tmp_path / "out"), "--scenes", "1"]) == 2
    assert "is no earlier output of demo" in capsys.readouterr().err and (tmp_path / "out/masks/a.png").exists()
    with pytest.raises(SystemExit):
        main(["demo", str(tmp_path / "out"), "--seed", "-1"])
