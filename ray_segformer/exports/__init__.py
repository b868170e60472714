"""Formats of other programs, to which an output of `predict` can be exported.

Each format is a file of this room: a class that says which files an image becomes, and which files all become together.
Add one by writing such a class, and naming it in `FORMATS`. This room knows neither Ray nor the command line.
"""

from ray_segformer.exports.cityscapes import Cityscapes
from ray_segformer.exports.coco import Coco
from ray_segformer.exports.export_format import ExportError, ExportFormat, ExportImage
from ray_segformer.exports.label_studio import LabelStudio
from ray_segformer.exports.png import Png

FORMATS: dict[str, type[ExportFormat]] = {
    "png": Png,
    "coco": Coco,
    "label-studio": LabelStudio,
    "cityscapes": Cityscapes,
}

__all__ = ["FORMATS", "Cityscapes", "Coco", "ExportError", "ExportFormat", "ExportImage", "LabelStudio", "Png"]
