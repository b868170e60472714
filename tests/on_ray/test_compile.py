"""`runtime="compile"`, compared with transformers, and the cache of compiled programs.

These tests start no Ray. They are not in tests/fast because a compiler takes seconds.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from reference import agreement, objects, run_python
from safetensors.torch import load_file

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.network import make_runtime

pytestmark = pytest.mark.usefixtures("one_thread")

PIXELS = torch.linspace(-2, 2, 2 * 3 * 64 * 96).reshape(2, 3, 64, 96)

# Prints the largest relative difference between the logits of a runtime and those of eager mode.
RUN = """
import json, sys, torch
from safetensors.torch import load_file
from ray_segformer.network import make_runtime
directory, runtime = sys.argv[1:]
with open(directory + "/config.json") as file:
    config = json.load(file)
weights = load_file(directory + "/model.safetensors")
pixels = torch.linspace(-2, 2, 3 * 64 * 96).reshape(1, 3, 64, 96)
torch.set_num_threads(1)
eager = make_runtime(config, weights, runtime="eager")(pixels)
other = make_runtime(config, weights, runtime=runtime)
other.rows = 3  # on a GPU, a program takes several images, and smaller batches are padded
logits = other(pixels)
print(float((logits - eager).abs().max() / eager.abs().max()))
"""


def load(directory, **options):
    config = json.loads((directory / "config.json").read_text())
    return make_runtime(config, load_file(directory / "model.safetensors"), **options)


def programs(cache) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def assert_close(logits, expected, tolerance):
    expected = expected.permute(0, 2, 3, 1)
    assert logits.shape == expected.shape
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


def test_real_images(shared, real_sample, trained):
    checkpoint = SegformerCheckpoint.from_pretrained(shared / "models/segformer-b0-camvid")
    predictor = SegformerPredictor.from_checkpoint(checkpoint, runtime="compile")
    masks = predictor.predict({"image": objects(*map(str, real_sample))})["segmentation"]
    expected = [trained.mask(Image.open(path)) for path in real_sample]
    assert agreement(masks, expected) >= 0.9999
    for path, mask, other in zip(real_sample, masks, expected, strict=True):
        assert (mask == other).mean() > 0.999, path.name


@pytest.fixture(scope="module")
def compiled(small, tmp_path_factory):
    """A cache with the program of the small model, which two processes wanted, and the differences that they found."""
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o700)
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(run_python, RUN, small.directory, "compile", RAY_SEGFORMER_CACHE=str(cache)) for _ in range(2)
        ]
        return cache, [float(run.result()) for run in runs]


def test_processes_that_want_the_same_program_share_it(small, compiled):
    cache, differences = compiled
    assert max(differences) < 1e-5
    assert len(programs(cache)) == 1
    # The third process needs no compiler, and finds none.
    nowhere = {"CXX": "/nowhere/g++", "PATH": "/nowhere"}
    assert float(run_python(RUN, small.directory, "compile", RAY_SEGFORMER_CACHE=str(cache), **nowhere)) < 1e-5


def test_batches(small, compiled, monkeypatch):
    cache, _ = compiled
    monkeypatch.setenv("RAY_SEGFORMER_CACHE", str(cache))
    runtime = load(small.directory, runtime="compile")
    runtime.rows = 3
    assert_close(runtime(PIXELS), small.logits(), 1e-5)
    assert_close(runtime(PIXELS[1:]), small.logits()[1:], 1e-5)


def test_a_compilation_that_fails_says_what_is_needed_and_leaves_nothing(small, tmp_path):
    tmp_path.chmod(0o700)
    script = RUN.replace(
        "logits = other(pixels)",
        "try:\n    other(pixels)\nexcept RuntimeError as error:\n    print(error)\n    sys.exit()",
    )
    environment = {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch")}
    (tmp_path / "cache").mkdir(mode=0o700)
    printed = run_python(script, small.directory, "compile", RAY_SEGFORMER_CACHE=str(tmp_path / "cache"), **environment)
    assert 'runtime="compile"' in printed and "C++ compiler" in printed
    assert programs(tmp_path / "cache") == []
