"""`runtime="compile"`, compared with transformers, and the cache of compiled programs.

These tests start no Ray. They are not in tests/fast because a compiler takes seconds.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import SHARED
from PIL import Image
from reference import Reference, agreement, objects, run_python

from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.network._runtimes import _ROWS

pytestmark = pytest.mark.usefixtures("one_thread")

# Prints the largest relative difference between the logits of a runtime and those of eager mode, and whether torch's
# compiler was imported.
RUN = """
import sys, torch
from ray_segformer import SegformerCheckpoint
directory, height, width, runtime = sys.argv[1:]
content = SegformerCheckpoint.from_pretrained(directory).content
pixels = torch.linspace(-2, 2, 3 * int(height) * int(width)).reshape(1, 3, int(height), int(width))
torch.set_num_threads(1)
eager = content.make_runtime(runtime="eager")(pixels)
other = content.make_runtime(runtime=runtime)
other.rows = 3  # on a GPU, a program takes several images, and smaller batches are padded
logits = other(pixels)
print(float((logits - eager).abs().max() / eager.abs().max()), "torch._dynamo" in sys.modules)
"""


def programs(cache) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


@pytest.fixture(scope="module")
def model(small_dir):
    """The directory of the trained model, or of the small one where that is not there; and height and width."""
    trained = SHARED / "models/segformer-b0-camvid"
    return (trained, 512, 512) if trained.is_dir() else (small_dir, 64, 96)


@pytest.fixture(scope="module")
def compiled(model, tmp_path_factory):
    """A cache with the program of the model, which two processes wanted, and what they printed."""
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o700)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_python, RUN, *model, "compile", RAY_SEGFORMER_CACHE=str(cache)) for _ in range(2)]
        return cache, [run.result().split() for run in runs]


@pytest.fixture
def three_rows(compiled, monkeypatch):
    """Lets this process use that program, which takes three images."""
    monkeypatch.setenv("RAY_SEGFORMER_CACHE", str(compiled[0]))
    monkeypatch.setitem(_ROWS, "cpu", 3)


def test_processes_that_want_the_same_program_share_it(model, compiled):
    cache, printed = compiled
    assert max(float(difference) for difference, _ in printed) < 1e-5
    assert sorted(imported for _, imported in printed) == ["False", "True"]  # who only loads it needs no compiler
    assert len(programs(cache)) == 1


def test_batches(model, compiled, three_rows, monkeypatch):
    """By a third process, which needs no compiler, and finds none."""
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("PATH", "/nowhere")
    directory, height, width = model
    runtime = SegformerCheckpoint.from_pretrained(directory).content.make_runtime(runtime="compile")
    pixels = torch.linspace(-2, 2, 2 * 3 * height * width).reshape(2, 3, height, width)
    with torch.no_grad():
        expected = Reference(directory).model(pixel_values=pixels).logits.permute(0, 2, 3, 1)
    for rows in (slice(0, 2), slice(1, 2)):
        logits = runtime(pixels[rows])
        assert logits.shape == expected[rows].shape and logits.dtype == torch.float32
        assert (logits - expected[rows]).abs().max() <= 1e-5 * expected.abs().max()
    assert len(programs(compiled[0])) == 1


def test_auto_is_eager_until_the_machine_has_the_program(model, compiled, three_rows, tmp_path, monkeypatch):
    directory, height, width = model
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setenv("RAY_SEGFORMER_CACHE", str(cache))
    content = SegformerCheckpoint.from_pretrained(directory).content
    auto, later, eager, compiling = (
        content.make_runtime(runtime=runtime) for runtime in ("auto", "auto", "eager", "compile")
    )
    pixels = torch.linspace(-2, 2, 3 * height * width).reshape(1, 3, height, width)
    of_eager = eager(pixels)
    assert torch.equal(auto(pixels), of_eager)
    (program,) = programs(compiled[0])
    shutil.copytree(compiled[0] / program, cache / program)
    of_program = compiling(pixels).clone()
    assert torch.equal(auto(pixels), of_program) and not torch.equal(of_program, of_eager)
    cache.chmod(0o777)  # others could write a program there
    assert torch.equal(later(pixels), of_eager)


def test_real_images(shared, real_sample, trained, compiled, three_rows):
    """In groups of three, of which the last has fewer."""
    sample = real_sample[:4]
    checkpoint = SegformerCheckpoint.from_pretrained(shared / "models/segformer-b0-camvid")
    predictor = SegformerPredictor.from_checkpoint(checkpoint, runtime="compile")
    assert len(sample) % 3
    masks = predictor.predict({"image": objects(*map(str, sample))})["segmentation"]
    expected = [trained.mask(Image.open(path)) for path in sample]
    assert agreement(masks, expected) >= 0.9999
    for path, mask, other in zip(sample, masks, expected, strict=True):
        assert (mask == other).mean() > 0.999, path.name
    assert len(programs(compiled[0])) == 1


def test_a_compilation_that_fails_says_what_is_needed_and_leaves_nothing(small, tmp_path):
    tmp_path.chmod(0o700)
    script = RUN.replace(
        "logits = other(pixels)",
        "try:\n    other(pixels)\nexcept RuntimeError as error:\n    print(error)\n    sys.exit()",
    )
    environment = {"CXX": "/nowhere/g++"}
    (tmp_path / "cache").mkdir(mode=0o700)
    printed = run_python(
        script, small.directory, 64, 96, "compile", RAY_SEGFORMER_CACHE=str(tmp_path / "cache"), **environment
    )
    assert 'runtime="compile"' in printed and "C++ compiler" in printed
    assert programs(tmp_path / "cache") == []
