"""Augmentation with random numbers at their limits, against NumPy, Pillow and colorsys."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image
from reference import picture

from ray_segformer.training import augment, jitter_colours

RGB = picture(24, 36)


class AtLimits:
    """A generator of the middle of each range, or of its last value where `last` counts the calls of `uniform`."""

    def __init__(self, last=(), order=(), random=0.9):
        self.last, self.order, self.number = last, order, random
        self.calls = 0

    def uniform(self, low, high):
        """The last value, or the middle."""
        self.calls += 1
        return high if self.calls - 1 in self.last else (low + high) / 2

    def integers(self, low, high):
        """The last value."""
        return high - 1

    def random(self):
        """The given number."""
        return self.number

    def permutation(self, count):
        """The given order."""
        assert sorted(self.order) == [*range(count)]
        return np.array(self.order)


def turned(rgb, turns):
    """Colours whose hue is turned."""
    pixels = [colorsys.rgb_to_hsv(*pixel) for pixel in rgb.reshape(-1, 3) / 255]
    return 255 * np.reshape([colorsys.hsv_to_rgb((h + turns) % 1, s, v) for h, s, v in pixels], rgb.shape)


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation", "hue"])
def test_each_change_of_colours_has_a_strength_of_its_own(change):
    """As torchvision's ColorJitter(0.25, 0.25, 0.25, 0.1) at the upper limit of one of them."""
    rgb, grey = RGB.astype(float), np.asarray(Image.fromarray(RGB).convert("L"), float)
    expected = {
        "brightness": 1.25 * rgb,
        "contrast": grey.mean().round() + 1.25 * (rgb - grey.mean().round()),
        "saturation": grey[..., None] + 1.25 * (rgb - grey[..., None]),
        "hue": turned(RGB, 0.1),
    }
    rng = AtLimits([[*expected].index(change)], order=(0, 1, 2, 3))
    found = np.asarray(jitter_colours(Image.fromarray(RGB), rng)).astype(float)
    difference = np.abs(found - expected[change].clip(0, 255))
    assert difference.mean() < 2.5 and np.quantile(difference, 0.9) < 6  # HSV of 8 bits rounds
    others = [np.abs(found - other.clip(0, 255)).mean() for name, other in expected.items() if name != change]
    assert min(others) > 2 * difference.mean() + 1


def test_colours_change_in_the_order_of_chance():
    """With the strongest brightness and contrast, whose order matters."""
    image, orders = Image.fromarray(RGB), ((0, 1, 2, 3), (1, 0, 2, 3))
    found = [np.asarray(jitter_colours(image, AtLimits((0, 1), order))).astype(int) for order in orders]
    assert np.abs(found[0] - found[1]).max() > 5


def test_the_largest_scale_and_the_last_crop():
    labels = (np.arange(24)[:, None] // 4 * 9 + np.arange(36) // 4).astype(np.uint8)
    pixels, ids = augment(RGB, labels, (24, 36), AtLimits([0]), jitter=False)
    np.testing.assert_array_equal(ids, np.kron(labels[12:, 18:], np.ones((2, 2), np.uint8)))
    whole = Image.fromarray(RGB).resize((72, 48), Image.Resampling.BILINEAR)
    assert np.abs(pixels[2:-2, 2:-2].astype(int) - np.asarray(whole)[26:46, 38:70]).max() <= 1


@pytest.mark.parametrize(("random", "step"), [(0.0, -1), (0.49, -1), (0.5, 1), (0.99, 1)])
def test_one_of_two_is_flipped(random, step):
    labels = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36).astype(np.uint8)
    rng = AtLimits(random=random)
    rng.uniform = lambda low, high: 1.0
    pixels, ids = augment(RGB, labels, (24, 36), rng, jitter=False)
    np.testing.assert_array_equal(ids, labels[:, ::step])
    np.testing.assert_array_equal(pixels, RGB[:, ::step])
