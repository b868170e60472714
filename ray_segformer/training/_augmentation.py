"""Random changes of training images and their labels.

The strengths are those of common SegFormer recipes. Colours change as in Hugging Face's fine-tuning tutorial, which
uses torchvision's `ColorJitter(0.25, 0.25, 0.25, 0.1)`. Scale, crop and flip are those of the SegFormer paper
(https://arxiv.org/abs/2105.15203, 4.1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

SCALES = (0.5, 2.0)
BRIGHTNESS = CONTRAST = SATURATION = 0.25
HUE = 0.1  # of a full turn
IGNORED = 255
"""The class id of pixels that do not count."""

_PADDING = (124, 116, 104)  # ImageNet's mean colour, which normalisation turns into zero


def augment(
    rgb: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    jitter: bool = True,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Scale, crop, flip and recolour an image, and change its labels in the same way.

    At scale 1 the crop is the whole image, resized as for prediction, where SegFormer's preprocessing does not keep the
    aspect ratio either. Scales are uniform in `SCALES`. The crop is anywhere in the scaled image.

    Args:
        rgb: uint8 `(h, w, 3)`.
        labels: class ids `(h, w)`, uint8.
        size: `(height, width)` of the crop.
        rng: the generator of all random numbers.
        jitter: whether to change colours, too.

    Returns:
        The image, uint8 `(height, width, 3)`, resized bilinearly, and the labels, uint8 `(height, width)`, resized to
        the nearest. If the crop is larger than the scaled image, it is padded on the right and at the bottom: the image
        with ImageNet's mean colour, the labels with `IGNORED`.

    Raises:
        ValueError: the labels and the image have different sizes.
    """
    if rgb.shape[:2] != labels.shape:
        raise ValueError(f"the labels are {labels.shape} but their image is {rgb.shape[:2]}, (height, width)")
    (own_height, own_width), (height, width) = labels.shape, size
    scale = rng.uniform(*SCALES)
    scaled_height, scaled_width = max(1, round(height * scale)), max(1, round(width * scale))
    cut_height, cut_width = min(scaled_height, height), min(scaled_width, width)
    top, left = rng.integers(0, scaled_height - cut_height + 1), rng.integers(0, scaled_width - cut_width + 1)
    # The box of the crop in the image's own pixels: resizing only this box is faster than resizing the whole image.
    x, y = own_width / scaled_width, own_height / scaled_height
    right, bottom = min(own_width, (left + cut_width) * x), min(own_height, (top + cut_height) * y)
    box = (left * x, top * y, right, bottom)
    picture = Image.fromarray(rgb).resize((cut_width, cut_height), Image.Resampling.BILINEAR, box=box)
    if jitter:
        picture = jitter_colours(picture, rng)
    cut = Image.fromarray(labels).resize((cut_width, cut_height), Image.Resampling.NEAREST, box=box)
    pixels = np.full((height, width, 3), _PADDING, np.uint8)
    ids = np.full((height, width), IGNORED, np.uint8)
    step = -1 if rng.random() < 0.5 else 1  # -1 flips
    pixels[:cut_height, :cut_width] = np.asarray(picture)[:, ::step]
    ids[:cut_height, :cut_width] = np.asarray(cut)[:, ::step]
    return pixels, ids


def jitter_colours(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order, as torchvision's `ColorJitter` does.

    Args:
        picture: an RGB image; it is not changed.
        rng: the generator of all random numbers.

    Returns:
        An RGB image of the same size.
    """
    enhancers = [
        (ImageEnhance.Brightness, BRIGHTNESS),
        (ImageEnhance.Contrast, CONTRAST),
        (ImageEnhance.Color, SATURATION),
    ]
    factors = [rng.uniform(1 - strength, 1 + strength) for _, strength in enhancers]
    turn = rng.uniform(-HUE, HUE)
    for number in rng.permutation(len(enhancers) + 1):
        if number < len(enhancers):
            picture = enhancers[number][0](picture).enhance(factors[number])
        else:
            hsv = np.array(picture.convert("HSV"))
            hsv[..., 0] += np.uint8(round(turn * 255) % 256)  # uint8 wraps around, as hue does.
            picture = Image.fromarray(hsv, "HSV").convert("RGB")
    return picture
