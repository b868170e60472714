"""Annotations: image cells whose pixels are class ids."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ray_segformer.images.encoded import LARGE_FOR_PILLOW, MAX_PIXELS, check_size, open_image, why
from ray_segformer.images.errors import ImageError


def to_class_ids(cell: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The annotation in a cell: class ids, as they are stored (palette indices, not colours).

    Args:
        cell, max_pixels: as for `to_rgb`.

    Returns:
        `(H, W)`, uint8, or uint16 where an id is above 255.

    Raises:
        ImageError: as for `to_rgb`, or the annotation has several channels.
    """
    if isinstance(cell, np.ndarray):
        ids = np.asarray(cell[..., 0] if cell.ndim == 3 and cell.shape[-1] == 1 else cell)
    else:
        image = open_image(cell, max_pixels)
        if len(image.getbands()) != 1:
            raise ImageError(f"wrong shape: an annotation has one channel of class ids, but its mode is {image.mode}")
        try:
            ids = np.asarray(ImageOps.exif_transpose(image))
        except Image.DecompressionBombError as error:
            raise ImageError(LARGE_FOR_PILLOW.format(error)) from error
        except Exception as error:
            raise ImageError(f"cannot decode the annotation: {why(error)}") from error
    if ids.dtype.kind not in "biu":
        raise ImageError(f"wrong pixels: an annotation holds integer class ids, not {ids.dtype}")
    if ids.ndim != 2 or ids.size == 0:
        raise ImageError(f"wrong shape: an annotation has the shape (H, W) or (H, W, 1), not {ids.shape}")
    check_size(ids.shape[1], ids.shape[0], max_pixels)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > 65535:
        raise ImageError(f"wrong pixels: class ids are in [0, 65535], but these are in [{low}, {high}]")
    return ids.astype(np.uint8 if high <= 255 else np.uint16)


def reduce_labels(annotation: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """ADE20K's numbering, 0 for other and classes from 1, to the models': `ignore_index`, and classes from 0.

    Args:
        annotation: class ids, any shape and integer dtype. `ignore_index` stays.

    Returns:
        The same shape and dtype.
    """
    ignored = (annotation == 0) | (annotation == ignore_index)
    return np.where(ignored, ignore_index, annotation - np.where(ignored, 0, 1)).astype(annotation.dtype)
