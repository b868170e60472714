"""Images, and their annotations, as Ray datasets of encoded bytes.

Rows have `path`, `image` (the bytes of the file) and, with annotations, `annotation` (the bytes of its file, with class
ids as they are stored). Nothing is decoded here, so blocks are no larger than the files. Datasets are lazy: files are
read when the dataset is consumed. A file that cannot be read gives null, and a warning in the log says why. The
predictor's `on_error` decides whether a null ends the job.
"""

from __future__ import annotations

import os
import posixpath
from typing import Any

import ray

from ray_segformer.inputs.annotated import by_name, of_files, of_parquet, read_files
from ray_segformer.inputs.blocks import ROWS_PER_BLOCK
from ray_segformer.inputs.find import find_images, find_parquet
from ray_segformer.inputs.huggingface import find_huggingface
from ray_segformer.inputs.tree import Tree


def read_images(source: str, *, annotations: str | None = None) -> ray.data.Dataset:
    """Read the images of a folder, a glob, a list file or parquet, as `ray-segformer predict` does.

    Args:
        source: where the images are: a local path, or a URI of pyarrow's file systems.
        annotations: a local folder, or a URI, with a PNG of class ids for each image. It has the image's name, in the
            same tree of folders: `annotations/a/b.png` for `images/a/b.jpg`. Default: no annotations.

    Returns:
        A lazy dataset with `path`, `image` and, with `annotations`, `annotation`. Its order is the order of the paths,
        if Ray Data is set to preserve it.

    Raises:
        InputError: there are no images, or an image has no annotation; the message names the image.
    """
    if annotations is not None:
        return of_files(by_name(source, annotations)).dataset()
    found = find_images(source).dataset()
    return found.map_batches(read_files, batch_format="pyarrow", batch_size=ROWS_PER_BLOCK)


def read_ade20k(root: str | os.PathLike[str], split: str = "validation") -> ray.data.Dataset:
    """Read a split of ADE20K in the layout of MIT's Scene Parsing Benchmark (`ADEChallengeData2016`).

    Args:
        root: a folder, or a URI, with `images/{training,validation}` and `annotations/{training,validation}`. A dataset
            without splits has its files directly in `images` and `annotations`.
        split: "training", "validation", or "" for a dataset without splits.

    Returns:
        As `read_images`. The class ids of annotations are those of the files: 0 is "other", and classes count from 1
        (use `reduce_labels=True`).

    Raises:
        InputError: there is no such split, or an image has no annotation; the message names the image.
    """
    tree = Tree(os.fspath(root))
    images, annotations = (tree.locate(posixpath.join(kind, split)) for kind in ("images", "annotations"))
    return read_images(images, annotations=annotations)


def read_parquet(
    source: str, *, split: str | None = None, image_column: str = "image", annotation_column: str = "annotation"
) -> ray.data.Dataset:
    """Read annotated images from parquet, such as the files of `scene_parse_150` on the Hugging Face Hub.

    Args:
        source: a parquet file or a folder of them: a local path or a URI.
        split: read only the files of this split, which names tell as the Hub's do: `train-00000-of-00002.parquet`, or
            `train/0000.parquet`. Default: None, all files.
        image_column, annotation_column: columns of encoded bytes or of `{"bytes", "path"}`.

    Returns:
        As `read_images`. `path` comes from the column of that name, else from the struct, else from a hash of the
        image's bytes.

    Raises:
        InputError: there is no parquet file, or none of this split, or it has no such column.
    """
    return of_parquet(find_parquet(source, image_column, annotation_column, split=split)).dataset()


def from_huggingface(
    dataset: Any,
    *,
    split: str | None = None,
    image_column: str = "image",
    annotation_column: str | None = "annotation",
) -> ray.data.Dataset:
    """Read a Hugging Face `datasets.Dataset` or `DatasetDict`, or the directory that its `save_to_disk` wrote.

    Args:
        dataset: the dataset, whose bytes are put in Ray's object store at once; or the directory, which must be there
            on every node, and which tasks read lazily.
        split: the split of a `DatasetDict`. Default: None, for a `Dataset`.
        image_column, annotation_column: columns of the type `datasets.Image`. `annotation_column=None` reads no
            annotations.

    Returns:
        As `read_images`. `path` is "row-<number>" for a row without a path.

    Raises:
        InputError: the dataset has no such column or split, or it has splits and `split` names none; the message lists
            those that are there.
    """
    return find_huggingface(dataset, split, image_column, annotation_column).dataset()
