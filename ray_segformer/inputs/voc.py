"""PASCAL VOC as it is downloaded (http://host.robots.ox.ac.uk/pascal/VOC)."""

from __future__ import annotations

import os
import posixpath

import ray

from ray_segformer.inputs.annotated import AnnotatedInput, also, of_files
from ray_segformer.inputs.image_input import InputError
from ray_segformer.inputs.splits import choose_split
from ray_segformer.inputs.tree import Tree

_IMAGES, _ANNOTATIONS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


def read_voc(root: str | os.PathLike[str], split: str = "val") -> ray.data.Dataset:
    """Read a split of PASCAL VOC's segmentation as it is downloaded.

    Args:
        root: a folder, or a URI, with `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation/<split>.txt`; or
            the folder above, with `VOC2012` or `VOCdevkit/VOC2012`.
        split: "train", "val" or "trainval". The images are those that its list names: most of `JPEGImages` have no
            annotation.

    Returns:
        As `read_images`, in the order of the list. Annotations are palette PNGs: 0 is background, classes are 1 to 20,
        and 255 is the border of objects, which is ignored.

    Raises:
        InputError: there is no such split, or an image of the list, or its annotation, is not there; the message names
            it.
    """
    return find_voc(os.fspath(root), split).dataset()


def voc_folders(tree: Tree) -> list[str]:
    """Return the paths, relative to a folder, of those that have the layout of VOC: "" for the folder itself."""
    above = [posixpath.join(folder, name) for folder in ("", "VOCdevkit") for name in tree.folders(folder)]
    return [
        path
        for path in ["", *(path for path in above if posixpath.basename(path).startswith("VOC2"))]
        if tree.has_folder(posixpath.join(path, _IMAGES)) and tree.has_folder(posixpath.join(path, _ANNOTATIONS))
    ]


def find_voc(root: str, split: str | None = "val") -> AnnotatedInput:
    """Find what `read_voc` reads. None as the split is that of `choose_split`."""
    tree = Tree(root)
    folders = voc_folders(tree)
    if not folders:
        raise InputError(f"{root}: neither {_IMAGES}/ and {_ANNOTATIONS}/ there, nor VOCdevkit/VOC2012 with them")
    if len(folders) > 1:
        raise InputError(f"{root}: several years of VOC there; name one of {', '.join(map(tree.locate, folders))}")
    tree = Tree(tree.locate(folders[0])) if folders[0] else tree
    lists = [file.removesuffix(".txt") for file in tree.files(_LISTS) if file.endswith(".txt")]
    split = choose_split(lists, split, posixpath.join(tree.root, _LISTS))
    names = [line.split()[0] for line in tree.lines(f"{_LISTS}/{split}.txt")]
    if not names:
        raise InputError(f"{tree.root}: {_LISTS}/{split}.txt names no image")
    rows = [{"image": f"{_IMAGES}/{name}.jpg", "annotation": f"{_ANNOTATIONS}/{name}.png"} for name in names]
    there = {f"{folder}/{file}" for folder in (_IMAGES, _ANNOTATIONS) for file in tree.files(folder)}
    for row in rows:
        if row["annotation"] not in there:
            missing = sum(row["annotation"] not in there for row in rows)
            raise InputError(
                f"{tree.root}: {row['image']}, of {_LISTS}/{split}.txt, has no annotation{also(missing - 1)}: expected "
                f"{row['annotation']}"
            )
        if row["image"] not in there:
            raise InputError(f"{tree.root}: {row['image']}, of {_LISTS}/{split}.txt, is not there")
    located = [{kind: tree.file(path) for kind, path in row.items()} for row in rows]
    return of_files([{"path": row["image"], **row} for row in located], reduce_labels=False)
