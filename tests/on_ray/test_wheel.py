"""The wheel, where there is no checkout: built, unpacked, and used from there."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
import numpy as np, ray, ray_segformer
from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor
from ray_segformer.demo import make_scene


@ray.remote
def file_there():
    import ray_segformer

    return ray_segformer.__file__


image, mask = make_scene(7, 96, 128)
checkpoint = SegformerCheckpoint.demo()
ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": sys.argv[1]}})
rows = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor).predict(ray.data.from_items([{"image": image}]))
(row,) = rows.take_all()
agreement = float((row["segmentation"] == mask).mean())
print(json.dumps({"files": [ray_segformer.__file__, ray.get(file_there.remote())], "agreement": agreement}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, ROOT], check=True, timeout=600)
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


def test_wheel_works_without_a_checkout(wheel, ray_address, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "RAY_ADDRESS": ray_address}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(site)],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(file).is_relative_to(site) for file in result["files"])  # here, and in Ray's workers
    assert result["agreement"] > 0.8
