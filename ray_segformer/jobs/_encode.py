"""Encode predictions as the rows of an output: PNGs of class ids and confidence, class areas, JPEGs of overlays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_segformer import _stage_times as stage_times
from ray_segformer._batch_columns import row_error_text
from ray_segformer.images import MAX_PIXELS, ImageError, ScenePart, encode, has_data, to_rgb
from ray_segformer.outputs import schema_of
from ray_segformer.viz import overlay

_STRIP_PIXELS = 2**20  # that are converted at once, so that a huge mask needs no copies of other dtypes


class EncodeMasks:
    """Encodes masks and confidence as PNG, and overlays as JPEG. For `map_batches`; returns Arrow tables.

    A table has the columns of `schema_of("parquet")`, and `name`, `key` and `overlay`. Of a part of a scene, only its
    core is kept, and pixels without data get the class id 255, or 65535 of uint16, and the confidence 0.

    Args:
        palette: uint8 `(classes, 3)`, the colours of overlays. None draws no overlays. The images to draw on, and the
            parts of scenes, are in the column `source`.
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
        with stage_times.reported(), stage_times.timed("encode", len(batch["segmentation"])):
            return self._encoded(batch)

    def _encoded(self, batch: dict[str, npt.NDArray[Any]]) -> pa.Table:
        rows = [self._row({name: batch[name][row] for name in batch}, row) for row in range(len(batch["path"]))]
        own = [("name", pa.string()), ("key", pa.string()), ("overlay", pa.binary())]
        schema = pa.schema([*schema_of("parquet", confidence="confidence" in batch, columns=self._columns), *own])
        return pa.Table.from_pylist(rows, schema=schema)

    def _row(self, values: dict[str, Any], row: int) -> dict[str, Any]:
        """Return what is written of a row of the batch."""
        error = values.get("error")
        encoded = {"path": str(values["path"]), "index": int(values["index"])}
        for column in self._columns:  # in NumPy's arrays, nulls are NaN
            value = values[column.name]
            encoded[column.name] = value if value == value else None
        encoded |= {"name": str(values["name"]), "key": str(values["key"])}
        if isinstance(error, str) and error:
            return {**encoded, "error": error}
        try:
            return {**encoded, **self._images(values)}
        except ImageError as problem:  # such as a file that was deleted after it was predicted
            error = row_error_text(row, values["path"], problem)
            if "error" not in values:
                raise ImageError(error) from problem
            return {**encoded, "error": error}

    def _images(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the encoded images of a row, and the areas of its classes."""
        mask, confidence, source = values["segmentation"], values.get("confidence"), values.get("source")
        part, valid, place = ScenePart.of(source), None, (slice(None), slice(None))
        if part is not None:
            place, valid = part.in_area(), has_data(part)
            mask = mask[place] if valid is None else np.where(valid, mask[place], _no_data(mask.dtype))
        class_ids, class_pixels = class_areas(mask)
        if valid is not None and not valid.all():
            without = class_ids.index(_no_data(mask.dtype))
            del class_ids[without], class_pixels[without]
        images = {"height": mask.shape[0], "width": mask.shape[1], "segmentation": encode(mask, "PNG")}
        images |= {"class_ids": class_ids, "class_pixels": class_pixels}
        if confidence is not None:
            confidence = confidence[place] if valid is None else np.where(valid, confidence[place], 0)
            images["confidence"] = encode(grey_levels(confidence), "PNG")
        if self._palette is not None:
            image = to_rgb(source, self._max_pixels)[place]
            images["overlay"] = encode(overlay(image, mask, self._palette), "JPEG", quality=90)
        return images


def _no_data(dtype: np.dtype[Any]) -> int:
    """Return the class id of pixels without data: 255, or 65535 of uint16. No class has it."""
    return int(np.iinfo(dtype).max)


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
