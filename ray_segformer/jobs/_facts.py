"""Facts of each image of an input: what its file is, whether it can be read, and which ids are annotated.

They are read in workers, without a network. A row of facts is a small JSON text, whatever the size of the image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer._labels import Labels
from ray_segformer.images import (
    MAX_PIXELS,
    ImageError,
    encoded_bytes,
    frame_header,
    is_frame,
    object_array,
    read_header,
    to_rgb,
)

Facts = dict[str, Any]


class ReadFacts:
    """Reads the facts of a batch of images. For `map_batches`.

    Args:
        labels: how annotations become class ids.
        max_pixels: as for `to_rgb`.
        convert: makes another file of the bytes of an annotation; see `AnnotatedInput`.
    """

    def __init__(
        self, labels: Labels, max_pixels: int = MAX_PIXELS, convert: Callable[[bytes], bytes] | None = None
    ) -> None:
        self._labels = labels
        self._max_pixels = max_pixels
        self._convert = convert

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Return the column `facts`: JSON texts of what `of_row` returns."""
        names = [name for name in ("path", "image", "annotation") if name in batch]
        rows = zip(*(batch[name] for name in names), strict=True)
        return {"facts": object_array(json.dumps(self.of_row(dict(zip(names, row, strict=True)))) for row in rows)}

    def of_row(self, row: dict[str, Any]) -> Facts:
        """Return the facts of one image.

        Args:
            row: `path`, and the cells `image` and, in a dataset of annotated images, `annotation`.

        Returns:
            `path`. `image`: the attributes of its `Header`, and `error`, the reason why it cannot be read, or None.
            `annotation`, if the row has one: None for a null, else the same as for `image`, and `ids`: the numbers of
            pixels by class id, as text. What could not be read is left out.
        """
        facts: Facts = {"path": str(row["path"]), "image": self._image(row["image"])}
        if "annotation" in row:
            facts["annotation"] = self._annotation(row["annotation"])
        return facts

    def _image(self, cell: Any) -> Facts:
        facts: Facts = {"error": None}
        try:
            if is_frame(cell):
                facts |= asdict(frame_header(cell, self._max_pixels))
            else:
                cell = encoded_bytes(cell, self._max_pixels)
                facts |= asdict(read_header(cell, self._max_pixels))
            to_rgb(cell, self._max_pixels)
        except Exception as error:  # whatever a file does to a decoder, the others are looked at
            facts["error"] = _reason(error)
        return facts

    def _annotation(self, cell: Any) -> Facts | None:
        if cell is None or (isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path") is None):
            return None
        facts: Facts = {"error": None}
        try:
            content = encoded_bytes(cell, self._max_pixels)
            content = content if self._convert is None else self._convert(content)
            facts |= asdict(read_header(content, self._max_pixels))
            class_ids = self._labels.known_and_unknown_ids(content, self._max_pixels)
            ids, counts = np.unique(class_ids, return_counts=True)
            facts["ids"] = dict(zip(map(str, ids.tolist()), counts.tolist(), strict=True))
        except Exception as error:
            facts["error"] = _reason(error)
        return facts


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
