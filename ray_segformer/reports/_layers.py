"""An image and its mask as the layers of a picture in a page: data URIs of the same size."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ray_segformer.images import encode

_MOST_COLOURS = 256  # of a palette
_TALLEST = 2  # times as high as the most width


@dataclass(frozen=True)
class Layers:
    """The layers of a picture.

    Attributes:
        width, height: their size in pixels.
        photo: the image as JPEG; None if there is none.
        mask: the class ids as PNG with a palette, in the colours of the classes. Pixels whose id has no label are
            transparent.
        class_ids: the ids that the entries of that palette stand for.
    """

    width: int
    height: int
    photo: str | None
    mask: str
    class_ids: list[int]


def layers(
    name: str,
    image: npt.NDArray[np.uint8] | None,
    segmentation: npt.NDArray[Any],
    palette: npt.NDArray[np.uint8],
    id2label: Mapping[int, str],
    most_width: int,
) -> Layers:
    """Return the layers of a picture.

    Args:
        name: what to call the image in an error.
        image: uint8 `(H, W, 3)`, RGB; None if there is none.
        segmentation: class ids `(H, W)`, any integer dtype. Smaller ones are its nearest pixels.
        palette: uint8 `(classes, 3)`, RGB.
        id2label: class names by class id.
        most_width: larger ones are scaled to this width, in pixels, or to a height of twice as much.

    Raises:
        ValueError: the image and its mask differ in size, or the mask has more than 256 different ids.
    """
    height, width = segmentation.shape
    if image is not None and image.shape[:2] != (height, width):
        raise ValueError(f"{name} is {image.shape[:2]} but its mask is {(height, width)}, (H, W)")
    scale = min(most_width / width, _TALLEST * most_width / height, 1)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    columns, rows = (
        ((np.arange(small) + 0.5) * (large / small)).astype(int)
        for small, large in zip(size, (width, height), strict=True)
    )
    ids, places = np.unique(segmentation[rows][:, columns], return_inverse=True)
    if len(ids) > _MOST_COLOURS:
        raise ValueError(f"the mask of {name} has {len(ids)} different ids, more than a palette's {_MOST_COLOURS}")
    known = [int(class_id) in id2label for class_id in ids]
    colours = [palette[class_id] if labelled else (0, 0, 0) for class_id, labelled in zip(ids, known, strict=True)]
    indexed = Image.fromarray(places.reshape(size[::-1]).astype(np.uint8))
    indexed.putpalette(np.array(colours, np.uint8).tobytes())
    mask = encode(indexed, "PNG", optimize=True, transparency=bytes(255 * labelled for labelled in known))
    photo = None
    if image is not None:
        small_image = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
        photo = _uri("jpeg", encode(small_image, "JPEG", quality=85))
    return Layers(*size, photo, _uri("png", mask), ids.tolist())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
