"""Datasets of encoded images. Scripts import from here; the code is in `ray_segformer.inputs`."""

from ray_segformer.inputs import (
    from_huggingface,
    read_ade20k,
    read_cityscapes,
    read_images,
    read_parquet,
    read_voc,
)

__all__ = ["from_huggingface", "read_ade20k", "read_cityscapes", "read_images", "read_parquet", "read_voc"]
