"""The runtimes, compared with transformers, and the cache of compiled programs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from reference import need_openvino, run_python
from safetensors.torch import load_file

from ray_segformer.network import make_runtime
from ray_segformer.network._program_cache import cached

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
logits = make_runtime(config, weights, runtime=runtime)(pixels)
print(float((logits - eager).abs().max() / eager.abs().max()))
"""


def load(directory, **options):
    config = json.loads((directory / "config.json").read_text())
    return make_runtime(config, load_file(directory / "model.safetensors"), **options)


def assert_close(logits, expected, tolerance):
    expected = expected.permute(0, 2, 3, 1)
    assert logits.shape == expected.shape
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("runtime", ["auto", "eager"])
def test_eager(runtime, small):
    assert_close(load(small.directory, runtime=runtime)(PIXELS), small.logits(), 1e-5)


@pytest.mark.slow
def test_openvino(small):
    need_openvino()
    runtime = load(small.directory, runtime="openvino")
    for rows in (1, 2):
        assert_close(runtime(PIXELS[:rows]), small.logits()[:rows], 1e-5)
    with torch.no_grad():
        other = small.model(pixel_values=PIXELS[:, :, :50, :70]).logits
    assert_close(runtime(PIXELS[:, :, :50, :70]), other, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "openvino"])
def test_bfloat16_on_real_images(runtime, trained, real_sample):
    if runtime == "openvino":
        need_openvino()
    exact = load(trained.directory, runtime="eager", dtype="float32")
    fast = load(trained.directory, runtime=runtime, dtype="bfloat16")
    differs = False
    for path in real_sample[::3]:
        pixels = trained.processor(Image.open(path).convert("RGB"), return_tensors="pt").pixel_values
        logits, expected = fast(pixels).clone(), exact(pixels)
        assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
        assert (logits.argmax(-1) == expected.argmax(-1)).float().mean() > 0.97
        differs |= not torch.equal(logits, expected)
    # OpenVINO computes in float32 on processors without bfloat16.
    assert differs or runtime == "openvino"


@pytest.mark.slow
def test_openvino_that_is_not_installed_is_asked_for(small):
    script = 'import sys; sys.modules["openvino"] = None' + RUN
    with pytest.raises(AssertionError, match=r'pip install "ray_segformer\[openvino\]"'):
        run_python(script, small.directory, "openvino")


@pytest.mark.slow
def test_the_conversion_for_openvino_forks_and_sends_nothing(small, tmp_path):
    """OpenVINO's telemetry would tell a server, from forks, and write to the home directory."""
    need_openvino()
    watch = """
import atexit, sys
seen = []
events = {"os.fork", "socket.connect", "socket.getaddrinfo"}
sys.addaudithook(lambda event, arguments: seen.append(event) if event in events else None)
atexit.register(lambda: print(seen))
"""
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir(), cache.mkdir(mode=0o700)
    environment = {"CI": "", "HOME": str(home), "RAY_SEGFORMER_CACHE": str(cache)}
    printed = run_python(watch + RUN, small.directory, "openvino", **environment)
    assert printed.splitlines()[-1] == "[]"
    assert not list(home.iterdir()) and list(cache.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "onnx"}, r"runtime is one of \('auto', 'eager', 'compile', 'openvino'\), not 'onnx'"),
        ({"dtype": "int8"}, r"dtype is one of \('auto', 'float32', 'bfloat16', 'float16'\), not 'int8'"),
        ({"dtype": "float16"}, 'dtype="float16" is for CUDA'),
        ({"runtime": "openvino", "device": "cuda"}, 'runtime="openvino" is for CPUs'),
    ],
)
def test_options_that_do_not_go_together(options, message, small):
    with pytest.raises(ValueError, match=message):
        load(small.directory, **options)


@pytest.mark.slow
def test_programs_are_not_run_from_where_others_can_write(small, tmp_path):
    tmp_path.chmod(0o777)
    script = RUN + "\n"
    with pytest.raises(AssertionError, match="others can write to it"):
        run_python(script, small.directory, "compile", RAY_SEGFORMER_CACHE=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_process_left_in_the_cache_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_SEGFORMER_CACHE", str(tmp_path))
    tmp_path.chmod(0o700)
    (tmp_path / ".unfinished_key").mkdir()
    (tmp_path / ".unfinished_key" / "half").touch()
    path = Path(cached("key", lambda directory: Path(directory, "whole").touch()))
    assert [file.name for file in path.iterdir()] == ["whole"]
    assert {file.name for file in tmp_path.iterdir()} == {"key", "key.lock"}


@pytest.mark.slow
def test_kept_memory_is_used_again_and_bounded_and_can_be_returned():
    script = """
import resource, torch
from ray_segformer.network import keep_freed_memory, return_freed_memory

def faults(mebibytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(mebibytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
usual = [faults(64) for _ in range(4)][-1]
done = keep_freed_memory()
kept = [faults(64) for _ in range(20)][-1]  # the first few allocations may still fault
after_first = resident()
for round in range(200):
    for mebibytes in (1 + round % 7, 33, 64 - round % 5):
        torch.ones(mebibytes * 2**18)
after_all = resident()
return_freed_memory()
print(done, usual, kept, after_first, after_all, resident())
"""
    done, usual, kept, after_first, after_all, returned = run_python(script).split()
    if done == "False":
        pytest.skip("needs glibc")
    assert int(usual) > 1000 or int(usual) > 10 * int(kept)  # pages of 4 KiB, or larger ones
    assert int(kept) < 20
    assert int(after_all) < int(after_first) + 128 * 2**20
    assert int(returned) < int(after_all) - 48 * 2**20


@pytest.mark.slow
def test_threads_share_openvino(small):
    need_openvino()
    runtime = load(small.directory, runtime="openvino")
    batches = [torch.full((1, 3, 64, 96), float(number)) for number in range(4)]
    expected = [runtime(pixels).clone() for pixels in batches]

    def logits(number):
        return [runtime(batches[number]).clone() for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for found, own in zip(pool.map(logits, range(4)), expected, strict=True):
            assert all(torch.equal(each, own) for each in found)


def test_a_damaged_program_is_not_taken(small_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_SEGFORMER_CACHE", str(tmp_path))
    tmp_path.chmod(0o700)
    runtime, eager = load(small_dir, runtime="auto", device="cpu"), load(small_dir, runtime="eager", device="cpu")
    program = tmp_path / runtime._compiled._key(1, 64, 64)
    program.mkdir()
    (program / "network.pt2").write_bytes(b"PK")
    pixels = torch.rand(1, 3, 64, 64)
    assert torch.equal(runtime(pixels), eager(pixels))
