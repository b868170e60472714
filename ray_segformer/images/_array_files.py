"""Arrays beside the path of their file: what `ray.data.read_images` has dropped, as far as the file's header tells."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from ray_segformer._guesses import Guess, say
from ray_segformer.images._files import local_path

ADVICE = "read images by ray_segformer.datasets.read_images, which keeps the files' bytes"

# Formats whose header Pillow reads without the rest of the file, and of which Ray drops something.
_FORMATS = ("JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP")

_said = False  # once per process


def say_where_arrays_differ(cells: Iterable[Any], paths: Iterable[Any]) -> None:
    """Warn once per process, of the first array that is not what its local file shows. No pixels are read.

    The warning is a `SegformerWarning` with the code "array-differs-from-file". After it, no file is looked at.

    Args:
        cells: image cells. Those that are no arrays are right.
        paths: the path or URI of each; None for none. Only absolute local ones are looked at.
    """
    global _said
    for cell, path in zip(cells, paths, strict=True):
        if _said:
            return
        why = difference(cell, path) if isinstance(cell, np.ndarray) and isinstance(path, str) else None
        if why:
            _said = True
            message = f"{path}: the array is not what the file shows: {why}; {ADVICE}"
            say([Guess("array-differs-from-file", message)])


def difference(array: npt.NDArray[Any], path: str) -> str | None:
    """Return how an array differs from the image in a file; None if nothing is known.

    Args:
        array: `(H, W)` or `(H, W, C)`.
        path: a path or URI of the file.
    """
    path = local_path(path)
    if not os.path.isabs(path) or not os.path.isfile(path) or array.ndim not in (2, 3):
        return None
    try:
        with Image.open(path, formats=_FORMATS) as image:
            # Not the method of PNG images, which decodes the pixels to see what follows them.
            orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
            mode, size = image.mode, (image.height, image.width)
            turned_by_pillow = image.format == "TIFF"
    except Exception:  # Pillow's exceptions are of many types, and a file that it does not read tells nothing.
        return None
    shape = array.shape[:2]
    if turned_by_pillow:  # when it decodes them, also for Ray
        size, orientation = (size[::-1] if shape == size[::-1] and orientation in range(5, 9) else size), 1
    if shape == size and orientation in range(2, 9):
        return f"its EXIF orientation, {orientation}, was not applied"
    if shape != (size[::-1] if orientation in range(5, 9) else size):
        return f"the array is {shape}, and the file is {size}, (height, width)"
    if mode in ("P", "PA") and (array.ndim == 2 or array.shape[-1] < 3):
        return "its pixels are indices of a palette, not colours"
    if mode == "CMYK" and array.shape[2:] == (4,):
        return "its channels are inks (CMYK), not RGB"
    if mode == "LA" and array.shape[2:] == (2,):
        return "its channels are grey and alpha"
    if mode.startswith("I;16") and array.dtype == np.uint8:
        return "it has 8 bits, and the file has 16"
    return None
