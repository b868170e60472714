"""Encode predictions as the rows of an output: PNGs of class ids, and JPEGs of overlays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_segformer import stage_times
from ray_segformer.batch_columns import of_row
from ray_segformer.images import MAX_PIXELS, ImageError, encode, to_rgb
from ray_segformer.viz import overlay

# The columns of an output in parquet.
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("segmentation", pa.binary()),
        ("error", pa.string()),
    ]
)


class EncodeMasks:
    """Encodes masks as PNG, and overlays as JPEG. For `map_batches`; returns Arrow tables.

    Args:
        palette: uint8 `(classes, 3)`, the colours of overlays. The images to draw on are then in the column `source`.
            None draws no overlays.
        max_pixels: as for `SegformerPredictor`.
    """

    def __init__(self, palette: npt.NDArray[np.uint8] | None, max_pixels: int = MAX_PIXELS) -> None:
        self._palette = palette
        self._max_pixels = max_pixels

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
            rows.append(
                {
                    "path": str(batch["path"][row]),
                    "name": str(batch["name"][row]),
                    "key": str(batch["key"][row]),
                    "height": None if failed else mask.shape[0],
                    "width": None if failed else mask.shape[1],
                    "segmentation": None if failed else encode(mask, "PNG"),
                    "error": error if failed else None,
                    "overlay": overlay_jpeg,
                }
            )
        schema = pa.schema([*SCHEMA, ("name", pa.string()), ("key", pa.string()), ("overlay", pa.binary())])
        return pa.Table.from_pylist(rows, schema=schema)
