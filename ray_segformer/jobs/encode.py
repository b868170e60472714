"""Predictions to the rows of an output: PNGs of class ids, and JPEGs of overlays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ray_segformer import stage_times
from ray_segformer.images import MAX_PIXELS, ImageError, encode, to_rgb
from ray_segformer.preprocessor import of_row
from ray_segformer.viz import overlay

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
    """Turns predictions into what is written: PNG bytes, and JPEG bytes of overlays. For `map_batches`, in pyarrow.

    Args:
        palette: uint8 `(classes, 3)` to draw overlays with; None to draw none. A `source` column has their images.
        max_pixels: as for the predictor.
    """

    def __init__(self, palette: np.ndarray | None, max_pixels: int = MAX_PIXELS):
        self._palette = palette
        self._max_pixels = max_pixels

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Encode a batch; a null mask gives nulls.

        Raises:
            ImageError: an image cannot be read for its overlay, though it was for its mask, and errors are not kept.
        """
        with stage_times.timed("encode", len(batch["segmentation"])):
            encoded = self._encoded(batch)
        stage_times.hand_over()
        return encoded

    def _encoded(self, batch: dict[str, np.ndarray]) -> pa.Table:
        rows = []
        for row, mask in enumerate(batch["segmentation"]):
            error = batch["error"][row] if "error" in batch else None
            failed = isinstance(error, str) and error != ""
            picture = None
            if not failed and self._palette is not None:
                try:
                    image = to_rgb(batch["source"][row], self._max_pixels)
                    picture = encode(overlay(image, mask, self._palette), "JPEG", quality=90)
                except ImageError as problem:  # a file that vanished since it was predicted
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
                    "overlay": picture,
                }
            )
        schema = pa.schema([*SCHEMA, ("name", pa.string()), ("key", pa.string()), ("overlay", pa.binary())])
        return pa.Table.from_pylist(rows, schema=schema)
