"""One image: turn an image cell of any kind into an array.

This room has the image cells, encoded image files, annotations, and the error for images that cannot be read. Add a
new image format in `_encoded.py`. This room knows nothing of Ray, of folders of images, or of the network.
"""

from ray_segformer.images._annotations import LabelFormat, advice_on_size, reduce_labels, to_class_ids
from ray_segformer.images._array_files import say_where_arrays_differ
from ray_segformer.images._busy_stores import retried
from ray_segformer.images._cells import cells, describe, object_array, to_rgb
from ray_segformer.images._encoded import MAX_PIXELS, SUFFIXES, encode, encoded_bytes
from ray_segformer.images._errors import CAUSES, ImageError, cause_of
from ray_segformer.images._file_systems import file_system_at
from ray_segformer.images._files import local_path
from ray_segformer.images._header import Header, as_stored, read_header
from ray_segformer.images._label_options import parse_label_map, read_label_colors
from ray_segformer.images._scene_files import NO_RASTERIO, SCENE_SUFFIXES, opened_scene
from ray_segformer.images._scene_parts import SCENE_CELL, Area, Bands, ScenePart
from ray_segformer.images._scenes import black_or_white, has_data, scene_size
from ray_segformer.images._uris import escaped_uri, is_percent_encoded, public_uri, quoted, without_options
from ray_segformer.images._video_file import NO_PYAV, VIDEO_SUFFIXES, FrameTime, frames_in
from ray_segformer.images._video_frames import FRAME_CELL, frame_header, is_frame

__all__ = [
    "CAUSES",
    "FRAME_CELL",
    "MAX_PIXELS",
    "NO_PYAV",
    "NO_RASTERIO",
    "SCENE_CELL",
    "SCENE_SUFFIXES",
    "SUFFIXES",
    "VIDEO_SUFFIXES",
    "Area",
    "Bands",
    "FrameTime",
    "Header",
    "ImageError",
    "LabelFormat",
    "ScenePart",
    "advice_on_size",
    "as_stored",
    "black_or_white",
    "cause_of",
    "cells",
    "describe",
    "encode",
    "encoded_bytes",
    "escaped_uri",
    "file_system_at",
    "frame_header",
    "frames_in",
    "has_data",
    "is_frame",
    "is_percent_encoded",
    "local_path",
    "object_array",
    "opened_scene",
    "parse_label_map",
    "public_uri",
    "quoted",
    "read_header",
    "read_label_colors",
    "reduce_labels",
    "retried",
    "say_where_arrays_differ",
    "scene_size",
    "to_class_ids",
    "to_rgb",
    "without_options",
]
