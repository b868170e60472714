"""Formats of other programs, to which an output of `predict` can be exported.

Each format is a file of this room. An `ExportFormat` says which files an image becomes, and which files all become
together. A `SourceFormat` makes one file of all images that are parts of a file. Add one by writing such a class, and
naming it in `FORMATS`. This room knows neither Ray nor the command line.
"""

from ray_segformer.exports.coco import Coco
from ray_segformer.exports.export_format import ExportError, ExportFormat, ExportImage
from ray_segformer.exports.label_studio import LabelStudio
from ray_segformer.exports.png import Png
from ray_segformer.exports.source_format import SourceFormat, SourcePart
from ray_segformer.exports.video import Video

FORMATS: dict[str, type[ExportFormat | SourceFormat]] = {
    "png": Png,
    "coco": Coco,
    "label-studio": LabelStudio,
    "video": Video,
}

__all__ = [
    "FORMATS",
    "Coco",
    "ExportError",
    "ExportFormat",
    "ExportImage",
    "LabelStudio",
    "Png",
    "SourceFormat",
    "SourcePart",
    "Video",
]
