"""The wheel, installed where there is no checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import json, sys
import numpy as np, ray, ray_segformer
from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.demo import make_scene

image, mask = make_scene(7, 96, 128)
checkpoint = SegformerCheckpoint.demo()
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
rows = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor).predict(ray.data.from_items([{"image": image}]))
(row,) = rows.take_all()
print(json.dumps({"file": ray_segformer.__file__, "agreement": float((row["segmentation"] == mask).mean())}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, ROOT], check=True, timeout=300)
    (path,) = folder.glob("ray_segformer-*.whl")
    return path


def test_wheel_carries_all_it_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "ray_segformer").rglob("*.py"):
        assert str(path.relative_to(ROOT)) in names
    for name in ("py.typed", "demo/checkpoint/config.json", "demo/checkpoint/model.safetensors"):
        assert f"ray_segformer/{name}" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert not any(name.startswith(("tests", "examples")) for name in names)


def test_wheel_works_without_a_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=work, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert Path(result["file"]).is_relative_to(site)
    assert result["agreement"] > 0.8


def test_public_names_are_lazy(tmp_path):
    program = (
        "import sys, ray_segformer; from ray_segformer.metrics import mean_iou; assert 'ray' not in sys.modules;"
        "names = {n: getattr(ray_segformer, n).__name__ for n in ray_segformer.__all__}; print(sorted(names))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = ["BatchMapper", "BatchPredictor", "Predictor", "SegformerCheckpoint", "SegformerPredictor"]
    assert all(name in done.stdout for name in [*expected, "SegformerPreprocessor"])
