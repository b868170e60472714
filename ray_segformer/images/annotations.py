"""Annotations: image cells whose pixels are class ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageOps

from ray_segformer.images.encoded import MAX_PIXELS, check_size, open_image
from ray_segformer.images.errors import ImageError, as_image_error


def to_class_ids(cell: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the annotation in a cell: class ids as the file stores them. Of a palette image, these are the indices.

    Args:
        cell, max_pixels: as for `to_rgb`.

    Returns:
        `(H, W)`, uint8, or uint16 if any id is above 255.

    Raises:
        ImageError: as for `to_rgb`; also if the annotation has several channels.
    """
    if isinstance(cell, np.ndarray):
        ids = np.asarray(cell[..., 0] if cell.ndim == 3 and cell.shape[-1] == 1 else cell)
    else:
        image = open_image(cell, max_pixels)
        if len(image.getbands()) != 1:
            raise ImageError(f"wrong shape: an annotation has one channel of class ids, but its mode is {image.mode}")
        with as_image_error("decode the annotation"):
            ids = np.asarray(ImageOps.exif_transpose(image))
    if ids.dtype.kind not in "biu":
        raise ImageError(f"wrong pixels: an annotation holds integer class ids, not {ids.dtype}")
    if ids.ndim != 2 or ids.size == 0:
        raise ImageError(f"wrong shape: an annotation has the shape (H, W) or (H, W, 1), not {ids.shape}")
    check_size(ids.shape[1], ids.shape[0], max_pixels)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > 65535:
        raise ImageError(f"wrong pixels: class ids are in [0, 65535], but these are in [{low}, {high}]")
    return ids.astype(np.uint8 if high <= 255 else np.uint16)


def reduce_labels(annotation: npt.NDArray[Any], ignore_index: int = 255) -> npt.NDArray[Any]:
    """Convert class ids as ADE20K's files number them to the ids of a model, as transformers' `do_reduce_labels` does.

    ADE20K's files use 0 for "other" and count classes from 1. A model counts classes from 0 and ignores `ignore_index`.

    Args:
        annotation: class ids, any shape and integer dtype.
        ignore_index: the id that replaces 0. Pixels that have it already keep it.

    Returns:
        The same shape and dtype.
    """
    ignored = (annotation == 0) | (annotation == ignore_index)
    return np.where(ignored, ignore_index, annotation - np.where(ignored, 0, 1)).astype(annotation.dtype)
