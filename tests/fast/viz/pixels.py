"""Helpers of the tests of pictures: flat pictures, and counts of pixels."""

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PAPER = (250, 250, 248)


def flat(colour: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    """Return a picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def counts(picture: Image.Image) -> dict[tuple[int, int, int], int]:
    """Return the number of pixels of each colour."""
    return {colour: count for count, colour in picture.getcolors(1 << 24)}


def ink(picture: Image.Image) -> int:
    """Return the total darkness of a picture that contains only text."""
    return int((PAPER[0] - np.asarray(picture)[..., 0].astype(int)).sum())


def edge_is(picture: Image.Image, colour: tuple[int, int, int], thickness: int = 4) -> bool:
    """Return whether the picture's whole edge has one colour, which means that nothing is cut off there."""
    inside = np.zeros((picture.height, picture.width), bool)
    inside[thickness:-thickness, thickness:-thickness] = True
    return bool((np.asarray(picture) == colour).all(axis=-1)[~inside].all())
