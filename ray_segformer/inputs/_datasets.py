"""Images, and their annotations, as Ray datasets of encoded bytes.

Rows have `path`, `image` (the bytes of the file) and, with annotations, `annotation` (the bytes of its file, with class
ids as they are stored). Nothing is decoded here, so blocks are no larger than the files. Datasets are lazy: files are
read when the dataset is consumed. A file that cannot be read gives null, and a warning in the log says why. The
predictor's `on_error` decides whether a null ends the job.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ray

from ray_segformer._guesses import say
from ray_segformer.inputs._annotated import AnnotatedInput, by_name, of_parquet, read_files
from ray_segformer.inputs._blocks import ROWS_PER_BLOCK
from ray_segformer.inputs._cityscapes import find_cityscapes
from ray_segformer.inputs._find import find_images, find_parquet
from ray_segformer.inputs._huggingface import find_huggingface
from ray_segformer.inputs._location import joined
from ray_segformer.inputs._voc import find_voc


def read_images(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    annotations: str | os.PathLike[str] | None = None,
    exclude: Sequence[str] = (),
) -> ray.data.Dataset:
    """Read the images of a folder, a glob, a list file, a video or parquet, as `ray-segformer predict` does.

    Args:
        source: where the images are: a local path, or a URI of pyarrow's file systems. Or a list of paths and URIs of
            image files, or of videos; unlike Ray's, it has no folders.
        annotations: a local folder, or a URI, with a PNG of class ids for each image. It has the image's name, in the
            same tree of folders: `annotations/a/b.png` for `images/a/b.jpg`. Default: no annotations.
        exclude: globs of images to leave out, compared with paths relative to the input and with names of files, such
            as `["*_mask.png"]`. Default: none.

    Returns:
        A lazy dataset with `path`, `image` and, with `annotations`, `annotation`. Its order is the order of the paths,
        if Ray Data is set to preserve it. Of videos, `image` has cells that the predictor decodes, not bytes, and there
        are the further columns of an `ImageInput`, such as `frame` and `seconds`.

    Warns:
        SegformerWarning: files are not looked at, or look like masks; see `find_images`.

    Raises:
        InputError: there are no images, or an image has no annotation; the message names the image. Or a glob of
            `exclude` matches nothing, or a list has a folder.
    """
    if isinstance(source, (str, os.PathLike)):
        images: str | list[str] = os.fspath(source)
    else:
        images = [os.fspath(path) for path in source]
    if annotations is not None:
        return _dataset(by_name(images, os.fspath(annotations), exclude))
    found = find_images(images, exclude=exclude)
    say(found.guesses)
    if found.columns.names:  # images that are parts of files
        return found.dataset()
    return found.dataset().map_batches(read_files, batch_format="pyarrow", batch_size=ROWS_PER_BLOCK)


def read_ade20k(
    root: str | os.PathLike[str], split: str = "validation", *, exclude: Sequence[str] = ()
) -> ray.data.Dataset:
    """Read a split of ADE20K in the layout of MIT's Scene Parsing Benchmark (`ADEChallengeData2016`).

    Args:
        root: a folder, or a URI, with `images/{training,validation}` and `annotations/{training,validation}`. A dataset
            without splits has its files directly in `images` and `annotations`.
        split: "training", "validation", or "" for a dataset without splits.
        exclude: as for `read_images`.

    Returns:
        As `read_images`. The class ids of annotations are those of the files: 0 is "other", and classes count from 1
        (use `reduce_labels=True`).

    Raises:
        InputError: there is no such split, or an image has no annotation; the message names the image.
    """
    images, annotations = (joined(os.fspath(root), kind, split) for kind in ("images", "annotations"))
    return read_images(images, annotations=annotations, exclude=exclude)


def read_cityscapes(root: str | os.PathLike[str], split: str = "val", *, train_ids: bool = True) -> ray.data.Dataset:
    """Read a split of Cityscapes as it is downloaded.

    Args:
        root: a folder, or a URI, with `leftImg8bit/<split>/<city>/x_leftImg8bit.png` and
            `gtFine/<split>/<city>/x_gtFine_labelIds.png`, or `x_gtFine_labelTrainIds.png` as the authors' scripts make
            them. If `gtFine` lacks the split, `gtCoarse` is read, with a `SegformerWarning` "coarse-annotations".
        split: "train", "val", "test" or "train_extra".
        train_ids: whether annotations are to have the train ids, 0 to 18, and 255 for pixels that are ignored, which
            the published models have. False leaves the ids of `labelIds`, 0 to 33.

    Returns:
        As `read_images`. Annotations that had other ids are PNGs made by the reading tasks.

    Raises:
        InputError: there is no such split, an image has no annotation, which the message names, or, with `train_ids`,
            the annotations of "test" are withheld: they ignore every pixel.
    """
    return _dataset(find_cityscapes(os.fspath(root), split, train_ids=train_ids))


def read_voc(root: str | os.PathLike[str], split: str = "val") -> ray.data.Dataset:
    """Read a split of PASCAL VOC's segmentation as it is downloaded.

    Args:
        root: a folder, or a URI, with `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation/<split>.txt`; or
            the folder above, with `VOC2012` or `VOCdevkit/VOC2012`. Images may have other formats than JPEG.
        split: "train", "val" or "trainval". The images are those that its list names: most of `JPEGImages` have no
            annotation.

    Returns:
        As `read_images`, in the order of the list. Annotations are palette PNGs: 0 is background, classes are 1 to 20,
        and 255 is the border of objects, which is ignored.

    Raises:
        InputError: there is no such split, or an image of the list, or its annotation, is not there; the message names
            it.
    """
    return _dataset(find_voc(os.fspath(root), split))


def read_parquet(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    image_column: str = "image",
    annotation_column: str = "annotation",
    exclude: Sequence[str] = (),
) -> ray.data.Dataset:
    """Read annotated images from parquet, such as the files of `scene_parse_150` on the Hugging Face Hub.

    Args:
        source: a parquet file or a folder of them: a local path or a URI.
        split: read only the files of this split, which names tell as the Hub's do: `train-00000-of-00002.parquet`, or
            `train/0000.parquet`. Default: None, all files.
        image_column, annotation_column: columns of encoded bytes, of paths, or of `{"bytes", "path"}`. Relative paths
            are relative to the parquet file.
        exclude: as for `read_images`: globs of parquet files.

    Returns:
        As `read_images`. `path` is the path of the image's file. For an image that is in the table, it comes from the
        column of that name, else from the struct, else from a hash of the image's bytes.

    Warns:
        SegformerWarning: files are not looked at.

    Raises:
        InputError: there is no parquet file, or none of this split, or it has no such column, or the column is of
            another type.
    """
    found = find_parquet(os.fspath(source), image_column, annotation_column, split=split, exclude=exclude)
    return _dataset(of_parquet(found))


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
            on every node, and which tasks read lazily. Its images are read as they are stored, without the transform or
            the format that it may have for a training.
        split: the split of a `DatasetDict`. Default: None, for a `Dataset`.
        image_column, annotation_column: columns of the type `datasets.Image`. `annotation_column=None` reads no
            annotations.

    Returns:
        As `read_images`. `path` is "row-<number>" for a row without a path.

    Raises:
        InputError: the dataset has no such column or split, or it has splits and `split` names none (the message
            lists those that are there), or it has no rows, or is a stream, or a column holds no images.
        ImportError: the package `datasets` is not installed.
    """
    return _dataset(find_huggingface(dataset, split, image_column, annotation_column))


def _dataset(found: AnnotatedInput) -> ray.data.Dataset:
    """Return the dataset of an input, and warn of its guesses."""
    say(found.guesses)
    return found.dataset()
