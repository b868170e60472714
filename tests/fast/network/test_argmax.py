"""Upsampled argmax, compared with torch's interpolation of all classes and its argmax."""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import run_python

from ray_segformer.network._argmax import upsampled_argmax


def upsampled(logits, size):
    """Return the logits of all classes at full size, `(classes, height, width)`."""
    return torch.nn.functional.interpolate(
        logits.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False
    )[0]


def differing(ids, logits, size):
    """Return how many pixels differ from torch's result, and check that all of them are ties up to rounding."""
    expected = upsampled(logits, size).argmax(0).numpy()
    assert ids.shape == tuple(size)
    pixels = np.argwhere(ids != expected)
    for y, x in pixels:
        ours, theirs = upsampled(logits[..., [int(ids[y, x]), expected[y, x]]].double(), size)[:, y, x].tolist()
        assert abs(ours - theirs) < 1e-4 * max(abs(ours), abs(theirs))
    return len(pixels)


def random_logits(h, w, classes, seed=0):
    return 4 * torch.randn(h, w, classes, generator=torch.Generator().manual_seed(seed))


def smooth_logits(h, w, classes):
    """Return logits whose classes have regions several cells wide, as those of a real network do."""
    return upsampled(random_logits(max(h // 8, 2), max(w // 8, 2), classes), (h, w)).permute(1, 2, 0).contiguous()


@pytest.fixture
def torch_threads():
    """Return a function that sets torch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained_logits(trained, real_images):
    """Return the trained model's logits of three photos, with the sizes of the photos."""
    chosen = [
        real_images[0],
        *(path for path in real_images if path.stem in ("ADE_val_00000001", "ADE_train_00009317")),
    ]
    images = [Image.open(path).convert("RGB") for path in chosen]
    with torch.no_grad():
        outputs = [trained.model(**trained.processor(image, return_tensors="pt")).logits[0] for image in images]
    return [(logits.permute(1, 2, 0), image.size[::-1]) for logits, image in zip(outputs, images, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("h", "w", "classes", "size"),
    [
        (1, 1, 1, (1, 1)),
        (1, 1, 5, (7, 3)),
        (1, 9, 5, (1, 40)),
        (9, 1, 5, (40, 1)),
        (16, 24, 7, (1, 1)),
        (16, 24, 7, (16, 24)),
        (16, 24, 7, (5, 100)),
        (16, 24, 7, (100, 5)),
        (33, 17, 1, (64, 64)),
        (33, 17, 2, (50, 90)),
        (33, 17, 19, (131, 71)),
        (33, 17, 150, (32, 16)),
        (31, 37, 150, (211, 333)),
        (128, 128, 150, (3, 4)),
        (64, 64, 150, (300, 401)),
    ],
)
@pytest.mark.parametrize("make", [random_logits, smooth_logits])
def test_the_result_is_torchs(make, h, w, classes, size):
    logits = make(h, w, classes)
    ids, probability = upsampled_argmax(logits, size, confidence=True)
    assert ids.dtype == np.uint8 and probability.dtype == np.float32
    assert differing(ids, logits, size) <= 5
    expected = upsampled(logits, size).softmax(0).max(0).values.numpy()
    np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(upsampled_argmax(logits, size), ids)


@pytest.mark.parametrize(("classes", "dtype"), [(255, np.uint8), (256, np.uint16), (300, np.uint16), (2000, np.uint16)])
def test_many_classes(classes, dtype):
    logits = random_logits(12, 10, classes)
    logits[..., -1] += 10  # the highest id has to win somewhere
    ids, probability = upsampled_argmax(logits, (40, 57), confidence=True)
    assert ids.dtype == dtype and ids.max() == classes - 1
    assert differing(ids, logits, (40, 57)) <= 5
    expected = upsampled(logits, (40, 57)).softmax(0).max(0).values.numpy()
    np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-5)


def test_classes_far_below_add_up():
    logits = torch.zeros(3, 3, 60000)
    logits[..., 0] = 15
    _, probability = upsampled_argmax(logits, (5, 5), confidence=True)
    expected = 1 / (1 + 59999 * np.exp(-15))
    np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-5)


def test_the_first_of_equal_classes_wins():
    ids, probability = upsampled_argmax(torch.full((6, 5, 9), -2.5), (31, 17), confidence=True)
    assert (ids == 0).all()
    np.testing.assert_allclose(probability, 1 / 9, rtol=1e-6)
    logits = random_logits(20, 20, 30)
    twice = torch.cat([logits, logits], dim=2)  # each class has an equal twin
    np.testing.assert_array_equal(upsampled_argmax(twice, (90, 77)), upsampled_argmax(logits, (90, 77)))
    zeros = torch.tensor([-0.0, 0.0]).expand(4, 4, 2)
    assert (upsampled_argmax(zeros, (9, 9)) == 0).all()


def test_classes_that_are_level_in_places():
    logits = torch.randint(1, 4, (30, 30, 6), generator=torch.Generator().manual_seed(0)).float()
    for size in [(30, 30), (90, 150), (101, 77)]:
        differing(upsampled_argmax(logits, size), logits, size)  # only ties may differ, and there are many


@pytest.mark.parametrize("scale", [1e-3, 100])
def test_confidence_of_close_and_of_distant_logits(scale):
    logits = scale * smooth_logits(20, 30, 40)
    _, probability = upsampled_argmax(logits, (95, 131), confidence=True)
    expected = upsampled(logits, (95, 131)).softmax(0).max(0).values.numpy()
    np.testing.assert_allclose(
        probability, expected, rtol=0, atol=1e-5 if scale < 1 else 1e-3
    )  # torch has this error itself


@pytest.mark.slow
def test_trained_logits(trained_logits):
    assert len(trained_logits) == 3
    for logits, size in trained_logits:
        assert differing(upsampled_argmax(logits, size), logits, size) <= 5
    logits, _ = trained_logits[0]
    assert differing(upsampled_argmax(logits, (1024, 1366)), logits, (1024, 1366)) <= 5


@pytest.mark.slow
def test_confidence_of_trained_logits(trained_logits):
    for logits, size in trained_logits:
        _, probability = upsampled_argmax(logits, size, confidence=True)
        expected = upsampled(logits, size).softmax(0).max(0).values.numpy()
        np.testing.assert_allclose(probability, expected, rtol=0, atol=1e-5)


def test_the_layout_in_memory_does_not_matter():
    logits = random_logits(14, 11, 20)
    expected = upsampled_argmax(logits, (50, 60))
    channels_first = logits.permute(2, 0, 1).contiguous()
    np.testing.assert_array_equal(upsampled_argmax(channels_first.permute(1, 2, 0), (50, 60)), expected)
    wider = torch.cat([logits, logits], dim=1)
    np.testing.assert_array_equal(upsampled_argmax(wider[:, :11], (50, 60)), expected)
    np.testing.assert_array_equal(upsampled_argmax(logits.clone().requires_grad_(), torch.Size((50, 60))), expected)


def test_the_logits_are_left_alone():
    logits = random_logits(14, 11, 20)
    before = logits.clone()
    upsampled_argmax(logits, (50, 60), confidence=True)
    assert torch.equal(logits, before)


def test_the_number_of_threads_does_not_matter(torch_threads):
    logits = smooth_logits(96, 128, 90)
    results = []
    for threads in (1, 2, 5):
        torch_threads(threads)
        results.append(upsampled_argmax(logits, (301, 403), confidence=True))
    for ids, probability in results[1:]:
        np.testing.assert_array_equal(ids, results[0][0])
        np.testing.assert_array_equal(probability, results[0][1])


@pytest.mark.slow
def test_calls_from_several_threads(torch_threads):
    torch_threads(2)
    several = [random_logits(64, 64, 150 + seed % 3, seed) for seed in range(12)]
    expected = [upsampled_argmax(logits, (400, 401), confidence=True) for logits in several]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda logits: upsampled_argmax(logits, (400, 401), confidence=True), several))
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result[0], right[0])
        np.testing.assert_array_equal(result[1], right[1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_threads_of_its_own():
    run_python("""
import os, signal, sys
import numpy as np, torch
from ray_segformer.network._argmax import upsampled_argmax
torch.set_num_threads(2)
logits = torch.randn(64, 64, 150)
expected = upsampled_argmax(logits, (700, 700))
child = os.fork()
if child == 0:
    signal.alarm(30)
    os._exit(0 if np.array_equal(upsampled_argmax(logits, (700, 700)), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
""")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_do_no_harm(value):
    logits = smooth_logits(24, 24, 300)
    expected = upsampled_argmax(logits, (96, 96))
    logits[:8, :8, 3] = value
    logits[2, 3] = value
    logits[4:6, 5] = value
    ids, _ = upsampled_argmax(logits, (96, 96), confidence=True)
    assert ids.max() < 300
    reach = np.s_[:34, :34]  # the pixels that are interpolated from the changed logits
    ids[reach] = expected[reach]
    np.testing.assert_array_equal(ids, expected)
    ids, _ = upsampled_argmax(torch.full((5, 5, 3), value), (9, 9), confidence=True)
    assert ids.max() < 3


@pytest.mark.parametrize(
    ("logits", "size", "message"),
    [
        (torch.zeros(1, 4, 4, 3), (8, 8), r"\(h, w, classes\).*\(1, 4, 4, 3\)"),
        (torch.zeros(4, 4), (8, 8), r"\(h, w, classes\).*\(4, 4\)"),
        (torch.zeros(4, 0, 3), (8, 8), r"not empty.*\(4, 0, 3\)"),
        (torch.zeros(4, 4, 0), (8, 8), r"not empty.*\(4, 4, 0\)"),
        (torch.zeros(1, 1, 65536), (8, 8), "at most 65535 classes"),
        (torch.zeros(4, 4, 3, dtype=torch.bfloat16), (8, 8), "float32, not torch.bfloat16"),
        (torch.zeros(4, 4, 3, dtype=torch.int32), (8, 8), "float32, not torch.int32"),
        (torch.zeros(4, 4, 3), (8, 0), r"positive, not \(8, 0\)"),
        (torch.zeros(4, 4, 3), (-8, 8), r"positive, not \(-8, 8\)"),
        (torch.zeros(4, 4, 3), (8, 8, 3), r"\(height, width\).*\(8, 8, 3\)"),
        (torch.zeros(4, 4, 3, device="meta"), (8, 8), "on a CPU or a CUDA device, not on meta"),
    ],
)
def test_wrong_arguments_are_refused(logits, size, message):
    with pytest.raises(ValueError, match=message):
        upsampled_argmax(logits, size)


def test_a_size_is_of_integers():
    with pytest.raises(TypeError, match="float"):
        upsampled_argmax(torch.zeros(4, 4, 3), (8.5, 8))
    assert upsampled_argmax(torch.zeros(4, 4, 3), (np.int64(8), np.uint16(9))).shape == (8, 9)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_classes_times_the_pixels():
    # VmHWM is the peak of the new process alone. The peak of getrusage would include the parent's.
    growth = run_python("""
import re, torch
from ray_segformer.network._argmax import upsampled_argmax
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
logits = torch.randn(128, 128, 150)
upsampled_argmax(logits, (32, 32), confidence=True)
before = peak()
for _ in range(2):
    upsampled_argmax(logits, (1024, 1366), confidence=True)
print(peak() - before)
""")
    assert float(growth) < 100  # MB; torch's float array of all classes needs 840 MB


@pytest.mark.slow
def test_importing_needs_neither_numba_nor_triton():
    run_python("""
import sys
for name in ("numba", "triton", "ray", "transformers"):
    sys.modules[name] = None
import ray_segformer.network._argmax
""")


@pytest.mark.slow
def test_without_a_directory_to_cache_in():
    printed = run_python(
        """
import torch
from ray_segformer.network._argmax import upsampled_argmax
from ray_segformer.network import _argmax_kernels as argmax_kernels
print(upsampled_argmax(torch.eye(3)[None], (1, 9)).tolist(), argmax_kernels.fill_class_ids.stats.cache_path)
""",
        NUMBA_CACHE_LOCATOR_CLASSES="ZipCacheLocator",
    )
    assert printed.strip() == "[[0, 0, 0, 1, 1, 1, 2, 2, 2]] None"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_in_its_interpreter():
    run_python(
        """
import sys
sys.path.append(sys.argv[1])
import torch
from ray_segformer.network._argmax_triton import upsampled_argmax_triton
torch.manual_seed(0)
for h, w, classes, size in [
    (1, 1, 1, (1, 1)), (5, 7, 9, (11, 40)), (5, 7, 70, (3, 2)),
    (3, 4, 33, (9, 1)), (4, 4, 255, (6, 5)), (4, 3, 300, (6, 7)),
]:
    logits = 4 * torch.randn(h, w, classes)
    values = torch.nn.functional.interpolate(logits.permute(2, 0, 1)[None], size=size, mode="bilinear")[0]
    ids, probability = upsampled_argmax_triton(logits, size, True)
    assert ids.dtype == (torch.uint8 if classes <= 255 else torch.uint16)
    assert torch.equal(ids.long(), values.argmax(0))
    torch.testing.assert_close(probability, values.softmax(0).max(0).values, rtol=0, atol=1e-5)
    again, nothing = upsampled_argmax_triton(logits, size)
    assert torch.equal(again.long(), ids.long()) and nothing is None
assert not upsampled_argmax_triton(torch.zeros(2, 2, 70), (5, 5))[0].any()  # the first of equal classes
broken = torch.randn(4, 4, 70)
broken[2:] = broken[0, 0, 64:] = float("nan")
assert upsampled_argmax_triton(broken, (8, 8), True)[0].max() < 70
""",
        Path(importlib.util.find_spec("triton").origin).parents[1],
        TRITON_INTERPRET="1",
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_compiles_for_a_gpu(tmp_path):
    sizes = run_python(
        """
import sys
sys.path.append(sys.argv[1])
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ray_segformer.network._argmax_triton import _CLASSES, _PIXELS, _label
numbers = {"h": "i32", "w": "i32", "classes": "i32", "width": "i32", "y_scale": "fp32", "x_scale": "fp32"}
for confidence in (False, True):
    pointers = {"logits": "*fp32", "ids": "*u16", "probability": "*fp32" if confidence else "*u16"}
    constants = {"CONFIDENCE": confidence, "PIXELS": _PIXELS, "CLASSES": _CLASSES}
    source = ASTSource(_label, {**pointers, **numbers, **dict.fromkeys(constants, "constexpr")}, constants)
    target, options = GPUTarget("cuda", 80, 32), {"enable_fp_fusion": True}
    print(len(triton.compile(source, target=target, options=options).asm["cubin"]))
""",
        Path(importlib.util.find_spec("triton").origin).parents[1],
        TRITON_CACHE_DIR=str(tmp_path),
    )
    with_and_without = [int(size) for size in sizes.split()]
    assert len(set(with_and_without)) == 2 and min(with_and_without) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("classes", [19, 150, 300])
def test_on_a_gpu(classes):
    logits = smooth_logits(64, 48, classes)
    ids, probability = upsampled_argmax(logits.cuda(), (301, 203), confidence=True)
    assert differing(ids, logits, (301, 203)) <= 5
    np.testing.assert_allclose(probability, upsampled_argmax(logits, (301, 203), confidence=True)[1], rtol=0, atol=1e-5)
