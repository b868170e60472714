"""Sliding windows, compared with a simple implementation that averages and resizes all logits at once."""

import gc

import numpy as np
import pytest
import torch
from torch.nn import functional

from ray_segformer.network import segment_windows


def logits_of(pixel_values):
    """Return logits that depend on a pixel's colour and on its place in the window, as those of a real network do."""
    pixels = torch.from_numpy(pixel_values).float() / 255
    small = functional.avg_pool2d(pixels, 4)  # (1, 3, h, w)
    rows = torch.linspace(-1, 1, small.shape[2])[None, None, :, None].expand_as(small[:, :1])
    columns = torch.linspace(-1, 1, small.shape[3])[None, None, None].expand_as(small[:, :1])
    features = torch.cat([small - 0.5, rows * 0.2, columns * 0.2], dim=1)
    weights = torch.randn((7, features.shape[1]), generator=torch.Generator().manual_seed(0))
    return torch.einsum("bchw,kc->bhwk", features, weights).contiguous()


def blended_at_once(image, window, stride):
    """Return the class ids by definition: average the logits of all windows, resize them, take the argmax."""
    height, width = image.shape[:2]
    rows, columns = (max(-(-side // 4) * 4, window) for side in (height, width))
    padded = np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
    sums = torch.zeros(rows // 4, columns // 4, 7, dtype=torch.float64)
    counts = torch.zeros(rows // 4, columns // 4, 1, dtype=torch.float64)
    tops, lefts = (sorted({*range(0, side - window, stride), side - window}) for side in (rows, columns))
    for top in tops:
        for left in lefts:
            part = padded[top : top + window, left : left + window].transpose(2, 0, 1)[None].copy()
            place = np.s_[top // 4 : (top + window) // 4, left // 4 : (left + window) // 4]
            sums[place] += logits_of(part)[0]
            counts[place] += 1
    mean = (sums / counts).permute(2, 0, 1)[None]
    full = functional.interpolate(mean, size=(rows, columns), mode="bilinear", align_corners=False)
    return full[0].argmax(0).numpy()[:height, :width]


@pytest.mark.parametrize("window, stride", [(64, 64), (64, 32), (64, 40), (32, 12), (128, 4), (256, 128)])
@pytest.mark.parametrize("size", [(64, 64), (130, 97), (201, 64), (33, 250), (5, 7)])
def test_windows_are_averaged_as_by_their_definition(size, window, stride):
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    image = np.kron(image[::8, ::8], np.ones((8, 8, 1), np.uint8))[: size[0], : size[1]]
    found = segment_windows(logits_of, image, window, stride)
    expected = blended_at_once(image, window, stride)
    assert found.shape == size and found.dtype == np.uint8
    assert len(np.unique(expected)) > 1 or min(size) < 8
    assert (found == expected).mean() > 0.999  # other pixels are ties up to rounding


def test_a_window_over_all_is_the_network_itself():
    image = np.random.default_rng(5).integers(0, 256, (128, 96, 3), np.uint8)
    image = np.pad(image, ((0, 0), (0, 32), (0, 0)), mode="edge")
    whole = logits_of(image.transpose(2, 0, 1)[None].copy()).permute(0, 3, 1, 2)
    expected = functional.interpolate(whole, size=(128, 128), mode="bilinear", align_corners=False)[0].argmax(0)
    np.testing.assert_array_equal(segment_windows(logits_of, image, 128, 64), expected.numpy())


@pytest.fixture
def few_objects():
    """Hides all objects so far from the garbage collector: looking through those of torch takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_memory_does_not_grow_with_the_height(few_objects):
    def most_in_tensors(height):
        held = []

        def logits_while_watching(pixel_values):
            held.append(sum(tensor.nbytes for tensor in gc.get_objects() if isinstance(tensor, torch.Tensor)))
            return logits_of(pixel_values)

        segment_windows(logits_while_watching, np.zeros((height, 64, 3), np.uint8), 64, 32)
        assert max(held) > 0  # the windows' own are found
        return max(held)

    all_logits = 1024 // 4 * 64 // 4 * 7 * 4
    assert most_in_tensors(1024) - most_in_tensors(256) < all_logits / 100


@pytest.mark.parametrize(
    "window, stride, message", [(30, 30, "window is a multiple of 4"), (64, 0, "stride is a"), (32, 64, "leaves gaps")]
)
def test_impossible_windows(window, stride, message):
    with pytest.raises(ValueError, match=message):
        segment_windows(logits_of, np.zeros((64, 64, 3), np.uint8), window, stride)
