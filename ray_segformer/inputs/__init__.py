"""Many images: from the name of an input to a Ray dataset.

Here live the search for images in folders, globs, lists and parquet, the datasets that annotated images come in, and
the keys that tell their rows apart. A new kind of input is added here. This room decodes no image: `images` does.
"""

from ray_segformer.inputs.blocks import small_blocks
from ray_segformer.inputs.datasets import from_huggingface, read_ade20k, read_images, read_parquet
from ray_segformer.inputs.find import find_images, find_parquet
from ray_segformer.inputs.image_input import ImageInput, InputError
from ray_segformer.inputs.parquet import READING_CPUS
from ray_segformer.inputs.paths import folded, readable
from ray_segformer.inputs.row_keys import DIGEST, DIGEST_BYTES, DoneRows, digests_of

__all__ = [
    "DIGEST",
    "DIGEST_BYTES",
    "READING_CPUS",
    "DoneRows",
    "ImageInput",
    "InputError",
    "digests_of",
    "find_images",
    "find_parquet",
    "folded",
    "from_huggingface",
    "read_ade20k",
    "read_images",
    "read_parquet",
    "readable",
    "small_blocks",
]
