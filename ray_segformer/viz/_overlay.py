"""Class maps in colour, and the share of pixels of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def colorize(segmentation: npt.NDArray[np.integer[Any]], palette: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a class map in the colours of its classes.

    Args:
        segmentation: class ids `(H, W)`, any integer dtype, none negative.
        palette: uint8 `(classes, 3)`, RGB.

    Returns:
        uint8 `(H, W, 3)`, RGB. Ids without a colour, such as 255 (ignored), are black.
    """
    colours = np.zeros((int(max(segmentation.max(initial=0), len(palette))) + 1, 3), np.uint8)
    colours[: len(palette)] = palette
    coloured: npt.NDArray[np.uint8] = colours[segmentation]
    return coloured


def overlay(
    image: npt.NDArray[np.uint8],
    segmentation: npt.NDArray[np.integer[Any]],
    palette: npt.NDArray[np.uint8],
    alpha: float = 0.5,
) -> npt.NDArray[np.uint8]:
    """Return an image with its class map over it. The borders between classes are drawn in full colour.

    Args:
        image: uint8 `(H, W, 3)`, RGB.
        segmentation: class ids `(H, W)`, as for `colorize`.
        palette: uint8 `(classes, 3)`, RGB.
        alpha: the share of the class colour, from 0 to 1.

    Returns:
        uint8 `(H, W, 3)`, RGB.

    Raises:
        ValueError: the image and the class map differ in size, or the image is of another shape or dtype.
    """
    image, segmentation = np.asarray(image), np.asarray(segmentation)
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise ValueError(
            f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}; see ray_segformer.images.to_rgb"
        )
    if image.shape[:2] != segmentation.shape:
        raise ValueError(f"the image is {image.shape[:2]} but its segmentation is {segmentation.shape}, (H, W)")
    colours = colorize(segmentation, palette)
    border = np.zeros(segmentation.shape, bool)
    border[:, 1:] |= segmentation[:, 1:] != segmentation[:, :-1]
    border[1:, :] |= segmentation[1:, :] != segmentation[:-1, :]
    weight = np.where(border, 1.0, alpha)[..., None].astype(np.float32)
    return (image * (1 - weight) + colours * weight + 0.5).astype(np.uint8)


def class_areas(
    segmentation: npt.NDArray[np.integer[Any]], id2label: Mapping[int, str] | Mapping[str, str]
) -> dict[int, float]:
    """Return the share of pixels of each class in a class map.

    Args:
        segmentation: class ids, of any shape and any integer dtype.
        id2label: class names by class id, or text of it, as in `classes.json`.

    Returns:
        For each class with at least one pixel, its share of all pixels, above 0 and up to 1. The largest comes first;
        equal ones are in the order of their ids. Ids without a label, such as 255 (ignored), are left out, so the
        shares may add up to less than 1.
    """
    ids, counts = np.unique(segmentation, return_counts=True)
    areas = {int(class_id): int(count) / segmentation.size for class_id, count in zip(ids, counts, strict=True)}
    labelled = areas.keys() & set(map(int, id2label))
    return {class_id: areas[class_id] for class_id in sorted(sorted(labelled), key=areas.__getitem__, reverse=True)}
