"""PNG files of Cityscapes' label ids, as its evaluation reads predictions (https://www.cityscapes-dataset.com)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ray_segformer._guesses import Guess
from ray_segformer.exports._export_format import ExportError, ExportFormat, ExportImage, Records
from ray_segformer.images import encode

# The classes of Cityscapes by their ids, from 0, as the dataset's authors number them. Not all of them are scored.
_CLASSES = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground"),
    *("road", "sidewalk", "parking", "rail track"),
    *("building", "wall", "fence", "guard rail", "bridge", "tunnel"),
    *("pole", "polegroup", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider"),
    *("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
)
_IDS = {name: label_id for label_id, name in enumerate(_CLASSES)}
_UNLABELED = _IDS["unlabeled"]
_NAMED = 10  # classes in a message


class Cityscapes(ExportFormat):
    """Masks of label ids in the tree of the input, which Cityscapes' scripts find by the names of its images.

        labelIds/val/aachen/aachen_000000_000019_leftImg8bit.png
        label_ids.json    the label id of each class of the output

    Classes get the ids of their names, whatever their own ids; upper case and `_` do not matter. Other classes become
    0, "unlabeled", and `guesses` says which. See `ExportFormat`.

    Raises:
        ExportError: no class has a name of Cityscapes.
    """

    def __init__(self, id2label: Mapping[int, str]) -> None:
        super().__init__(id2label)
        found = {class_id: _IDS.get(_plain(name)) for class_id, name in self.id2label.items()}
        others = [self.id2label[class_id] for class_id, label_id in found.items() if label_id is None]
        named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
        if len(others) == len(found):
            raise ExportError(
                f"no class of this output has a name of Cityscapes, such as road, vegetation or traffic light: {named}"
            )
        if others:
            count = f"{len(others)} of {len(found)} classes"
            message = f"{count} become 0 (unlabeled), because Cityscapes has no classes of their names: {named}"
            self.guesses = [Guess("unlabeled-classes", message)]
        self._label_ids = np.full(2**16, _UNLABELED, np.uint8)  # pixels of a scene without data are unlabeled, too
        self._label_ids[list(found)] = [label_id or _UNLABELED for label_id in found.values()]

    def files(self, image: ExportImage) -> Mapping[str, bytes]:
        """See `ExportFormat`."""
        return {f"labelIds/{image.name}.png": encode(self._label_ids[image.mask], "PNG")}

    def record(self, image: ExportImage) -> dict[str, Any]:
        """See `ExportFormat`."""
        return {}

    def joint_files(self, records: Records) -> Iterator[tuple[str, Iterator[bytes]]]:
        """See `ExportFormat`."""
        label_ids = {name: int(self._label_ids[class_id]) for class_id, name in self.id2label.items()}
        yield "label_ids.json", iter([json.dumps(label_ids, indent=2, ensure_ascii=False).encode()])


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())
