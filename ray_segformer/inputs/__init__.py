"""Many images: turn the name of an input into a Ray dataset.

This room searches folders, globs, list files, videos and parquet for images, reads datasets of annotated images, and
gives each row its key. Add a new kind of input here. This room decodes no images; `images` does.
"""

from ray_segformer.inputs._annotated import AnnotatedInput
from ray_segformer.inputs._background import in_background
from ray_segformer.inputs._blocks import small_blocks
from ray_segformer.inputs._datasets import (
    from_huggingface,
    read_ade20k,
    read_cityscapes,
    read_images,
    read_parquet,
    read_voc,
)
from ray_segformer.inputs._find import find_images, find_parquet, find_rounds, first_read_from
from ray_segformer.inputs._image_input import ImageInput, InputError
from ray_segformer.inputs._layouts import find_annotated, find_input
from ray_segformer.inputs._listing import fixed_part
from ray_segformer.inputs._location import Location, joined
from ray_segformer.inputs._lookup import listed, type_at
from ray_segformer.inputs._output_names import (
    digests_of_names,
    file_name_of,
    is_among,
    key_of_part,
    name_of_part,
    repeated,
    unique_names,
    with_digest,
)
from ray_segformer.inputs._parquet import READING_CPUS
from ray_segformer.inputs._paths import readable
from ray_segformer.inputs._rounds import ListedAhead
from ray_segformer.inputs._row_keys import DIGEST, DIGEST_BYTES, DoneRows, digests_of
from ray_segformer.inputs._scenes import find_scenes
from ray_segformer.inputs._videos import is_video

__all__ = [
    "DIGEST",
    "DIGEST_BYTES",
    "READING_CPUS",
    "AnnotatedInput",
    "DoneRows",
    "ImageInput",
    "InputError",
    "ListedAhead",
    "Location",
    "digests_of",
    "digests_of_names",
    "file_name_of",
    "find_annotated",
    "find_images",
    "find_input",
    "find_parquet",
    "find_rounds",
    "find_scenes",
    "first_read_from",
    "fixed_part",
    "from_huggingface",
    "in_background",
    "is_among",
    "is_video",
    "joined",
    "key_of_part",
    "listed",
    "name_of_part",
    "read_ade20k",
    "read_cityscapes",
    "read_images",
    "read_parquet",
    "read_voc",
    "readable",
    "repeated",
    "small_blocks",
    "type_at",
    "unique_names",
    "with_digest",
]
