"""PASCAL VOC as it is downloaded (http://host.robots.ox.ac.uk/pascal/VOC)."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from ray_segformer.images import SUFFIXES
from ray_segformer.inputs._annotated import AnnotatedInput, and_others, by_name, of_files
from ray_segformer.inputs._image_input import InputError
from ray_segformer.inputs._splits import choose_split
from ray_segformer.inputs._tree import Tree

_IMAGES, _ANNOTATIONS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_PNG_OF_LABELME = "SegmentationClassPNG"  # then the other folder has arrays of NumPy


def voc_folders(tree: Tree) -> list[str]:
    """Return the paths, relative to a folder, of those that have the layout of VOC: "" for the folder itself."""
    above = [posixpath.join(folder, name) for folder in ("", "VOCdevkit") for name in tree.folders(folder)]
    return [
        path
        for path in ["", *(path for path in above if posixpath.basename(path).startswith("VOC2"))]
        if tree.has_folder(posixpath.join(path, _IMAGES)) and tree.has_folder(posixpath.join(path, _ANNOTATIONS))
    ]


def find_voc(root: str, split: str | None = "val", *, strict: bool = True) -> AnnotatedInput:
    """Find what `read_voc` reads. None as the split is that of `choose_split`; `strict` as in `find_annotated`.

    Tools for labelling write this layout without lists. Then all images are read.
    """
    tree = Tree(root)
    folders = voc_folders(tree)
    if not folders:
        raise InputError(f"{tree.shown}: neither {_IMAGES}/ and {_ANNOTATIONS}/ there, nor VOCdevkit/VOC2012 with them")
    if len(folders) > 1:
        raise InputError(f"{tree.shown}: several years of VOC there; name one of {', '.join(folders)}")
    tree = Tree(tree.locate(folders[0])) if folders[0] else tree
    lists = [file.removesuffix(".txt") for file in tree.files(_LISTS) if file.endswith(".txt")]
    if split is None and not lists:
        annotations = _PNG_OF_LABELME if tree.has_folder(_PNG_OF_LABELME) else _ANNOTATIONS
        found = by_name(tree.locate(_IMAGES), tree.locate(annotations), strict=strict)
        return replace(found, reduce_labels=False)
    split = choose_split(lists, split, f"{tree.shown}/{_LISTS}")
    there = {f"{folder}/{file}" for folder in (_IMAGES, _ANNOTATIONS) for file in tree.files(folder)}
    # Tools for labelling leave images in the format that they had.
    parts = {file: posixpath.splitext(file) for file in sorted(there) if file.startswith(f"{_IMAGES}/")}
    images = {stem: file for file, (stem, suffix) in parts.items() if suffix.lower() in SUFFIXES}
    images |= {stem: file for file, (stem, suffix) in parts.items() if suffix == ".jpg"}
    # Some of VOC's lists have a number behind the name. Names of other datasets may have spaces.
    lines = tree.lines(f"{_LISTS}/{split}.txt")
    names = [line if f"{_ANNOTATIONS}/{line}.png" in there else line.split()[0] for line in lines]
    if not names:
        raise InputError(f"{tree.shown}: {_LISTS}/{split}.txt names no image")
    rows = [
        {
            "image": images.get(f"{_IMAGES}/{name}", f"{_IMAGES}/{name}.jpg"),
            "annotation": f"{_ANNOTATIONS}/{name}.png",
        }
        for name in names
    ]
    for row in rows if strict else ():
        if row["annotation"] not in there:
            missing = sum(row["annotation"] not in there for row in rows)
            raise InputError(
                f"{tree.shown}: {row['image']}, of {_LISTS}/{split}.txt, has no annotation{and_others(missing - 1)}: "
                f"expected {row['annotation']}"
            )
        if row["image"] not in there:
            raise InputError(f"{tree.shown}: {row['image']}, of {_LISTS}/{split}.txt, is not there")
    located = []
    for row in rows:
        image = tree.file(row["image"])
        annotation = tree.file(row["annotation"]).cell if row["annotation"] in there else None
        located.append({"path": image.path, "image": image.cell, "annotation": annotation})
    return of_files(located, reduce_labels=False)
