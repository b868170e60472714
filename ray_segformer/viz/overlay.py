"""Class maps in colour, and how much of a picture each class covers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def colorize(segmentation: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """A class map in its colours.

    Args:
        segmentation: class ids `(H, W)`, any integer dtype, none negative.
        palette: uint8 `(classes, 3)`, RGB.

    Returns:
        uint8 `(H, W, 3)`, RGB; ids without a colour (255, ignored) are black.
    """
    colours = np.zeros((int(max(segmentation.max(initial=0), len(palette))) + 1, 3), np.uint8)
    colours[: len(palette)] = palette
    return colours[segmentation]


def overlay(image: np.ndarray, segmentation: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """An image under its class map, with the borders between classes drawn in full colour.

    Args:
        image: uint8 `(H, W, 3)`, RGB.
        segmentation: class ids `(H, W)`, as for `colorize`.
        palette: uint8 `(classes, 3)`, RGB.
        alpha: how much of the class colour there is, from 0 to 1.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        ValueError: the sizes differ.
    """
    if image.shape[:2] != segmentation.shape:
        raise ValueError(f"the image is {image.shape[:2]} but its segmentation is {segmentation.shape}, (H, W)")
    colours = colorize(segmentation, palette)
    border = np.zeros(segmentation.shape, bool)
    border[:, 1:] |= segmentation[:, 1:] != segmentation[:, :-1]
    border[1:, :] |= segmentation[1:, :] != segmentation[:-1, :]
    weight = np.where(border, 1.0, alpha)[..., None].astype(np.float32)
    return (image * (1 - weight) + colours * weight + 0.5).astype(np.uint8)


def class_areas(segmentation: np.ndarray, id2label: Mapping[int, str]) -> dict[int, float]:
    """Which classes a class map shows, and how much of it each covers.

    Args:
        segmentation: class ids, of any shape and any integer dtype.
        id2label: class names by class id.

    Returns:
        For each class with a pixel its share of all pixels, above 0 and up to 1: the largest first, equal ones by
        id. Ids without a label (255, ignored) are left out, so that the shares may add up to less than 1.
    """
    ids, counts = np.unique(segmentation, return_counts=True)
    areas = {int(class_id): int(count) / segmentation.size for class_id, count in zip(ids, counts, strict=True)}
    labelled = [class_id for class_id in areas if class_id in id2label]
    return {class_id: areas[class_id] for class_id in sorted(labelled, key=areas.__getitem__, reverse=True)}
