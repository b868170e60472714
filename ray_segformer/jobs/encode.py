"""Encode predictions as the rows of an output: PNGs of class ids and confidence, class areas, JPEGs of overlays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_segformer import stage_times
from ray_segformer.batch_columns import of_row
from ray_segformer.images import MAX_PIXELS, ImageError, encode, to_rgb
from ray_segformer.outputs import schema_of
from ray_segformer.viz import overlay

_STRIP_PIXELS = 2**20  # that are converted at once, so that a huge mask needs no copies of other dtypes


class EncodeMasks:
    """Encodes masks and confidence as PNG, and overlays as JPEG. For `map_batches`; returns Arrow tables.

    A table has the columns of `schema_of("parquet")`, and `name`, `key` and `overlay`.

    Args:
        palette: uint8 `(classes, 3)`, the colours of overlays. The images to draw on are then in the column `source`.
            None draws no overlays.
        max_pixels: as for `SegformerPredictor`.
        columns: as for `schema_of`.
    """

    def __init__(
        self,
        palette: npt.NDArray[np.uint8] | None,
        max_pixels: int = MAX_PIXELS,
        columns: Iterable[pa.Field] = (),
    ) -> None:
        self._palette = palette
        self._max_pixels = max_pixels
        self._columns = list(columns)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        """Encode a batch. A row whose prediction failed has nulls, and its error.

        Raises:
            ImageError: an image can no longer be read for its overlay, and `on_error` is not "keep".
        """
        with stage_times.timed("encode", len(batch["segmentation"])):
            encoded = self._encoded(batch)
        stage_times.report()
        return encoded

    def _encoded(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        rows = []
        for row, mask in enumerate(batch["segmentation"]):
            error = batch["error"][row] if "error" in batch else None
            failed = isinstance(error, str) and error != ""
            overlay_jpeg = None
            if not failed and self._palette is not None:
                try:
                    image = to_rgb(batch["source"][row], self._max_pixels)
                    overlay_jpeg = encode(overlay(image, mask, self._palette), "JPEG", quality=90)
                except ImageError as problem:  # such as a file that was deleted after it was predicted
                    error, failed = of_row(row, batch["path"][row], problem), True
                    if "error" not in batch:
                        raise ImageError(error) from problem
            row_of_image: dict[str, Any] = {"path": str(batch["path"][row]), "index": int(batch["index"][row])}
            for column in self._columns:  # in NumPy's arrays, nulls are NaN
                value = batch[column.name][row]
                row_of_image[column.name] = value if value == value else None
            row_of_image |= {"error": error if failed else None}
            row_of_image |= {"name": str(batch["name"][row]), "key": str(batch["key"][row]), "overlay": overlay_jpeg}
            if not failed:
                class_ids, class_pixels = class_areas(mask)
                row_of_image |= {"height": mask.shape[0], "width": mask.shape[1], "segmentation": encode(mask, "PNG")}
                row_of_image |= {"class_ids": class_ids, "class_pixels": class_pixels}
                if "confidence" in batch:
                    row_of_image["confidence"] = encode(grey_levels(batch["confidence"][row]), "PNG")
            rows.append(row_of_image)
        own = [("name", pa.string()), ("key", pa.string()), ("overlay", pa.binary())]
        schema = pa.schema([*schema_of("parquet", confidence="confidence" in batch, columns=self._columns), *own])
        return pa.Table.from_pylist(rows, schema=schema)


def class_areas(mask: npt.NDArray[np.unsignedinteger[Any]]) -> tuple[list[int], list[int]]:
    """Return the class ids that occur in a mask, most pixels first, and the number of pixels of each."""
    counts = np.zeros(np.iinfo(mask.dtype).max + 1, np.int64)
    for rows in _strips(mask.shape):
        pixels = mask[rows].ravel()
        # Most pixels have the class of the one before. To count these runs is faster than to count pixels.
        starts = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
        lengths = np.diff(np.append(starts, pixels.size))
        counts += np.bincount(pixels[starts], lengths, len(counts)).astype(np.int64)
    ids = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return ids.tolist(), counts[ids].tolist()


def grey_levels(confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return probabilities `(height, width)` as grey levels, uint8: 255 is 1.0, rounded to the nearest."""
    levels = np.empty(confidence.shape, np.uint8)
    for rows in _strips(levels.shape):
        levels[rows] = np.rint(confidence[rows] * 255)
    return levels


def _strips(size: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, _STRIP_PIXELS // max(size[1], 1))
    return (slice(first, first + rows) for first in range(0, size[0], rows))
