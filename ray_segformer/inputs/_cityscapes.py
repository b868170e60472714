"""Cityscapes as it is downloaded (https://www.cityscapes-dataset.com)."""

from __future__ import annotations

import posixpath
from typing import Any

import numpy as np

from ray_segformer._guesses import Guess
from ray_segformer.images import encode, to_class_ids
from ray_segformer.inputs._annotated import AnnotatedInput, and_others, of_files
from ray_segformer.inputs._image_input import InputError
from ray_segformer.inputs._splits import choose_split
from ray_segformer.inputs._tree import Tree

IGNORED = 255

# The train ids of the classes that count, by their ids in *_labelIds.png, as the dataset's authors define them: road,
# sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider, car,
# truck, bus, train, motorcycle, bicycle. The other 15 ids are ignored.
TRAIN_IDS = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9},
    **{23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}

_IMAGES, _FINE, _COARSE = "leftImg8bit", "gtFine", "gtCoarse"
_LOOKED_AT = 4  # annotations of the split "test", to know whether they are withheld


def is_cityscapes(tree: Tree) -> bool:
    """Return whether a folder has the layout of Cityscapes."""
    return bool(_places(tree, _IMAGES))


def find_cityscapes(
    root: str, split: str | None = "val", *, train_ids: bool = True, strict: bool = True
) -> AnnotatedInput:
    """Find what `read_cityscapes` reads. None as the split: see `choose_split`; `strict`: see `find_annotated`."""
    tree = Tree(root)
    by_split = {split: place for place in _places(tree, _IMAGES) for split in tree.folders(place)}
    split = choose_split(by_split, split, f"{tree.shown} ({_IMAGES})")
    images = posixpath.join(by_split[split], split)
    kind, annotations = _annotations(tree, split)
    guesses = []
    if kind == _COARSE:
        why = f"{tree.shown}: there is no {_FINE}/{split}, so the annotations are those of {_COARSE}"
        guesses = [Guess("coarse-annotations", why)]
    suffix = f"_{_IMAGES}.png"
    stems = [file.removesuffix(suffix) for file in tree.files(images) if file.endswith(suffix)]
    if not stems:
        raise InputError(f"{tree.shown}: no images there; expected {images}/<city>/*{suffix}")
    there = set(tree.files(annotations))
    made, stored = f"_{kind}_labelTrainIds.png", f"_{kind}_labelIds.png"
    lack_made, lack_stored = (sum(stem + ending not in there for stem in stems) for ending in (made, stored))
    ending = made if train_ids and (not lack_made or lack_made < lack_stored) else stored
    missing = [stem for stem in stems if stem + ending not in there]
    if missing and strict:
        raise InputError(
            f"{images}/{missing[0]}{suffix} has no annotation" + and_others(len(missing) - 1) + f": expected "
            f"{annotations}/{missing[0]}{ending}, of the dataset's {kind} archive, below {tree.shown}"
        )
    rows = []
    for stem in stems:
        image = tree.file(f"{images}/{stem}{suffix}")
        annotation = tree.file(f"{annotations}/{stem}{ending}").cell if stem + ending in there else None
        rows.append({"path": image.path, "image": image.cell, "annotation": annotation})
    convert = _with_train_ids if train_ids and ending == stored else None
    alone = sorted(file for file in there - {stem + ending for stem in stems} if file.endswith(ending))
    without_image = [tree.file(f"{annotations}/{file}").path for file in alone]
    found = of_files(rows, convert, reduce_labels=False, guesses=guesses, without_image=without_image)
    if split == "test" and train_ids and all(_ignores_all(row["annotation"]) for row in found.sample(_LOOKED_AT)):
        raise InputError(
            f"{tree.shown}: the annotations of the split 'test' ignore every pixel, because the dataset's authors keep "
            "the true ones; choose another with --split, or split=, such as val"
        )
    return found


def _places(tree: Tree, kind: str) -> list[str]:
    """Return the folders of a kind: below the root, or below the folder that its archive was unpacked in."""
    above = [folder for folder in tree.folders() if folder.startswith(kind + "_")]
    return [place for place in (kind, *(f"{folder}/{kind}" for folder in above)) if tree.has_folder(place)]


def _annotations(tree: Tree, split: str) -> tuple[str, str]:
    """Return which annotations of a split are there, fine or coarse ones, and their folder."""
    for kind in (_FINE, _COARSE):
        for place in _places(tree, kind):
            if tree.has_folder(f"{place}/{split}"):
                return kind, f"{place}/{split}"
    return _FINE, f"{_FINE}/{split}"


def _ignores_all(annotation: Any) -> bool:
    return annotation is not None and bool((to_class_ids(annotation) == IGNORED).all())


def _with_train_ids(content: bytes) -> bytes:
    """Return an annotation of `labelIds` as a PNG of train ids."""
    table = np.full(2**16, IGNORED, np.uint8)
    table[list(TRAIN_IDS)] = list(TRAIN_IDS.values())
    return encode(table[to_class_ids(content)], "PNG", compress_level=1)
