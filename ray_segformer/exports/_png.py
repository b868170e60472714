"""PNG files of class ids that open in the colours of the classes, as Datumaro imports them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ray_segformer._class_names import distinct_names
from ray_segformer.exports._export_format import ExportError, ExportFormat, ExportImage, Records
from ray_segformer.images import encode
from ray_segformer.viz import class_palette

_MOST_CLASSES = 256  # in a palette


class Png(ExportFormat):
    """Masks in the tree of the input, as PNG files with a palette: pixels are class ids, and a viewer shows colours.

    Datumaro reads colours. Where two classes have one, as road and skyscraper of ADE20K have, that of the second is
    changed by an unnoticeable step.

        masks/a/b.png
        dataset_meta.json    names and colours of the classes, as Datumaro's format "common_semantic_segmentation" has

    See `ExportFormat`.
    """

    def __init__(self, id2label: Mapping[int, str]) -> None:
        super().__init__(id2label)
        if max(self.id2label) >= _MOST_CLASSES:
            raise ExportError(f"a palette has at most {_MOST_CLASSES} classes; this output has {len(self.id2label)}")
        self._palette = _distinct(class_palette(self.id2label))

    def files(self, image: ExportImage) -> Mapping[str, bytes]:
        """See `ExportFormat`."""
        if image.mask.max(initial=0) >= _MOST_CLASSES:
            raise ExportError(
                f"{image.path}: some pixels have no data, and a palette of {_MOST_CLASSES} classes has no id for them"
            )
        picture = Image.fromarray(image.mask.astype(np.uint8))  # of 256 classes, it has uint16
        # Of a shorter palette, Pillow writes fewer bits than 8: those of 255, no data, would not fit.
        picture.putpalette(self._palette.tobytes().ljust(3 * _MOST_CLASSES, b"\0"))
        return {f"masks/{image.name}.png": encode(picture, "PNG")}

    def record(self, image: ExportImage) -> dict[str, Any]:
        """See `ExportFormat`."""
        return {}

    def joint_files(self, records: Records) -> Iterator[tuple[str, Iterator[bytes]]]:
        """See `ExportFormat`."""
        meta = {
            "label_map": {str(class_id): name for class_id, name in distinct_names(self.id2label).items()},
            "segmentation_colors": [self._palette[class_id].tolist() for class_id in self.id2label],
        }
        yield "dataset_meta.json", iter([json.dumps(meta, indent=2, ensure_ascii=False).encode()])


def _distinct(palette: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return colours that all differ: of equal ones, the later are changed in blue."""
    seen, colours = set[tuple[int, ...]](), palette.copy()
    for colour in colours:
        while tuple(colour.tolist()) in seen:
            colour[2] = (int(colour[2]) + 1) % 256
        seen.add(tuple(colour.tolist()))
    return colours
