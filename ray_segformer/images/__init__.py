"""One image: turn an image cell of any kind into an array.

This room has the image cells, encoded image files, annotations, and the error for images that cannot be read. Add a
new image format in `encoded.py`. This room knows nothing of Ray, of folders of images, or of the network.
"""

from ray_segformer.images.annotations import LabelFormat, reduce_labels, to_class_ids
from ray_segformer.images.array_files import say_where_arrays_differ
from ray_segformer.images.busy_stores import retried
from ray_segformer.images.cells import cells, describe, object_array, to_rgb
from ray_segformer.images.encoded import MAX_PIXELS, SUFFIXES, encode, encoded_bytes
from ray_segformer.images.errors import CAUSES, ImageError, cause_of
from ray_segformer.images.header import Header, read_header
from ray_segformer.images.label_options import parse_label_map, read_label_colors
from ray_segformer.images.uris import escaped_uri, is_percent_encoded, public_uri, quoted
from ray_segformer.images.video_file import NO_PYAV, VIDEO_SUFFIXES, FrameTime, frames_in
from ray_segformer.images.video_frames import FRAME_CELL, frame_header, is_frame

__all__ = [
    "CAUSES",
    "FRAME_CELL",
    "MAX_PIXELS",
    "NO_PYAV",
    "SUFFIXES",
    "VIDEO_SUFFIXES",
    "FrameTime",
    "Header",
    "ImageError",
    "LabelFormat",
    "cause_of",
    "cells",
    "describe",
    "encode",
    "encoded_bytes",
    "escaped_uri",
    "frame_header",
    "frames_in",
    "is_frame",
    "is_percent_encoded",
    "object_array",
    "parse_label_map",
    "public_uri",
    "quoted",
    "read_header",
    "read_label_colors",
    "reduce_labels",
    "retried",
    "say_where_arrays_differ",
    "to_class_ids",
    "to_rgb",
]
