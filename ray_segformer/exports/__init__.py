"""Formats of other programs, to which an output of `predict` can be exported.

Each format is a file of this room. An `ExportFormat` says which files an image becomes, and which files all become
together. A `SourceFormat` makes one file of all images that are parts of a file. Add one by writing such a class, and
naming it in `FORMATS`. This room knows neither Ray nor the command line.
"""

from ray_segformer.exports._cityscapes import Cityscapes
from ray_segformer.exports._coco import Coco
from ray_segformer.exports._export_format import ExportError, ExportFormat, ExportImage
from ray_segformer.exports._geotiff import GeoTiff
from ray_segformer.exports._label_studio import LabelStudio
from ray_segformer.exports._png import Png
from ray_segformer.exports._source_format import SourceError, SourceFormat, SourcePart
from ray_segformer.exports._video import Video

FORMATS: dict[str, type[ExportFormat | SourceFormat]] = {
    "png": Png,
    "coco": Coco,
    "label-studio": LabelStudio,
    "cityscapes": Cityscapes,
    "geotiff": GeoTiff,
    "video": Video,
}
"""The class of each format, by the name that `--format` takes."""

__all__ = [
    "FORMATS",
    "Cityscapes",
    "Coco",
    "ExportError",
    "ExportFormat",
    "ExportImage",
    "GeoTiff",
    "LabelStudio",
    "Png",
    "SourceError",
    "SourceFormat",
    "SourcePart",
    "Video",
]
