"""Which of the layouts of annotated datasets an input has."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace

from ray_segformer._guesses import Guess
from ray_segformer.images import public_uri
from ray_segformer.inputs._annotated import NO_ANNOTATIONS, AnnotatedInput, by_name, of_parquet
from ray_segformer.inputs._cityscapes import find_cityscapes, is_cityscapes
from ray_segformer.inputs._find import find_images, find_parquet
from ray_segformer.inputs._huggingface import find_huggingface, is_saved_dataset
from ray_segformer.inputs._image_input import ColumnTypeError, ImageInput, InputError
from ray_segformer.inputs._splits import choose_split, is_split, split_of_parquet
from ray_segformer.inputs._tree import Tree
from ray_segformer.inputs._videos import is_video
from ray_segformer.inputs._voc import find_voc, voc_folders

# Names of folders that people give to images, and to annotations of the same names.
_IMAGES = ("images", "imgs", "img_dir")
_ANNOTATIONS = ("annotations", "masks", "labels", "ann_dir")
_COLUMNS = ("image", "annotation")  # if no others are named


def find_annotated(
    source: str,
    split: str | None = None,
    *,
    exclude: Sequence[str] = (),
    image_column: str = "image",
    annotation_column: str = "annotation",
    strict: bool = True,
) -> AnnotatedInput:
    """Find the annotated images of an input, whatever its layout, without Ray.

    Args:
        source: a local path, or a URI of pyarrow's file systems, of one of these:

            * Cityscapes or PASCAL VOC as downloaded; see `read_cityscapes` and `read_voc`.
            * a folder of images and one of annotations of the same names, as ADE20K has them: `images`, `imgs` or
              `img_dir`, and `annotations`, `masks`, `labels` or `ann_dir`. Splits are folders in both of them
              (`images/train`), or above them (`train/images`).
            * a directory that `save_to_disk` of Hugging Face `datasets` wrote, with or without splits (local).
            * parquet, a file or a folder. Splits are told by names, as the Hub gives them:
              `data/validation-00000-of-00003.parquet` or `default/validation/0000.parquet`.
        split: the split to read. Default: "validation", else "val" or "valid", if the input has splits; of what
            `save_to_disk` wrote, there is no default.
        exclude: as for `find_images`: globs of images in folders, or of parquet files.
        image_column, annotation_column: the columns in parquet and in a dataset of `save_to_disk`.
        strict: whether a file that is not there is an error. If not, `without_annotation` and `without_image` tell
            which are missing. Default: True.

    Raises:
        InputError: nothing of this is there; or the split is not there, and the message lists those that are; or an
            image has no annotation, and the message names it; or `exclude` or a column is given for another layout.
    """
    tree = Tree(source)
    if is_video(tree.shown):
        raise InputError(f"{tree.shown}: {NO_ANNOTATIONS}")
    has_layout = is_saved_dataset(source) or is_cityscapes(tree) or bool(voc_folders(tree))
    if exclude and has_layout:
        raise InputError(
            f"{tree.shown}: --exclude (exclude=) is for folders of images and for parquet, not for this layout"
        )
    if is_saved_dataset(source):
        return find_huggingface(source, split, image_column, annotation_column)
    by_split = {} if has_layout else _pairs_of_folders(tree, split)
    if (has_layout or by_split) and (image_column, annotation_column) != _COLUMNS:
        raise InputError(
            f"{tree.shown}: --image-column and --annotation-column (image_column=, annotation_column=) are for parquet "
            "and datasets of save_to_disk; this layout has no columns"
        )
    if is_cityscapes(tree):
        return find_cityscapes(source, split, strict=strict)
    if voc_folders(tree):
        return find_voc(source, split, strict=strict)
    if by_split:
        splits = [name for name in by_split if name]
        chosen = "" if split is None and "" in by_split else choose_split(splits, split, tree.shown)
        images, annotations = by_split[chosen]
        return by_name(tree.locate(images), tree.locate(annotations), exclude, strict=strict)
    splits = sorted({split_of_parquet(file) for file in tree.files("") if file.lower().endswith(".parquet")} - {""})
    if splits or split is not None:
        split = choose_split(splits, split, tree.shown)
    return of_parquet(find_parquet(source, image_column, annotation_column, split=split, exclude=exclude))


def find_input(
    source: str,
    split: str | None = None,
    *,
    annotations: str | None = None,
    exclude: Sequence[str] = (),
    image_column: str = "image",
    annotation_column: str = "annotation",
) -> ImageInput | AnnotatedInput:
    """Find the images of any input, and their annotations if there are some. A file that is missing is no error.

    Args:
        source: as for `find_annotated`, or for `find_images`.
        split: as for `find_annotated`. If it is given, the input has annotations.
        annotations: a folder of annotations that have the names of the images. Default: those of the input's layout.
        exclude, image_column, annotation_column: as for `find_annotated`.

    Raises:
        InputError: there are no images; or as for `find_annotated`, except for missing files.
    """
    if annotations is not None:
        if split is not None or (image_column, annotation_column) != _COLUMNS:
            raise InputError(
                f"{public_uri(annotations)}: --annotations says where they are; leave out --split, --image-column and "
                "--annotation-column"
            )
        return by_name(source, annotations, exclude, strict=False)
    has_columns = (image_column, annotation_column) != _COLUMNS  # then it is annotated, or an error
    guesses: list[Guess] = []
    if split is not None or has_columns or _is_annotated(source, guesses):
        columns = {"image_column": image_column, "annotation_column": annotation_column}
        return find_annotated(source, split, exclude=exclude, **columns, strict=False)
    found = find_images(source, exclude=exclude)
    return replace(found, guesses=[*found.guesses, *guesses])


def _is_annotated(source: str, guesses: list[Guess]) -> bool:
    """Return whether an input is one that `find_annotated` reads, whatever its splits.

    If only the type of its column of annotations is against it, `guesses` get a finding of that.
    """
    tree = Tree(source)
    if is_saved_dataset(source) or is_cityscapes(tree) or voc_folders(tree) or _pairs_of_folders(tree):
        return True
    try:
        find_parquet(source, *_COLUMNS)
    except ColumnTypeError as error:
        guesses.append(Guess("annotation-column", f"{error}. Annotations are not looked at, and `evaluate` ends there"))
        return False
    except InputError:
        return False
    return True


def _pairs_of_folders(tree: Tree, asked: str | None = None) -> dict[str, tuple[str, str]]:
    """Return the folder of images and that of annotations of each split; the split is "" if there are none.

    Folders are splits by their names, or because one is `asked` for.
    """
    own = _pair(tree, "")
    if own is None:
        pairs = {folder: _pair(tree, folder) for folder in tree.folders() if is_split(folder) or folder == asked}
        return {folder: pair for folder, pair in pairs.items() if pair}
    images, annotations = own
    annotated = tree.folders(annotations)
    shared = [folder for folder in tree.folders(images) if folder in annotated]
    splits = [folder for folder in shared if is_split(folder) or folder == asked]
    if not splits:
        return {"": own}
    return {split: (f"{images}/{split}", f"{annotations}/{split}") for split in splits}


def _pair(tree: Tree, folder: str) -> tuple[str, str] | None:
    """Return the folder of images and that of annotations in a folder; None if one of them is not there."""
    there = tree.folders(folder)
    images, annotations = ([name for name in names if name in there] for names in (_IMAGES, _ANNOTATIONS))
    if not images or not annotations:
        return None
    for names in (images, annotations):
        if len(names) > 1:
            raise InputError(
                f"{posixpath.join(tree.shown, folder)}: {' and '.join(names)} are there, and each may be meant; give a "
                "folder that has one of them (links will do)"
            )
    return posixpath.join(folder, images[0]), posixpath.join(folder, annotations[0])
