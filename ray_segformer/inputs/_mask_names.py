"""Images whose names say that they are masks of other images of the input."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence

from ray_segformer._guesses import Guess

_KINDS = (
    *("masks?", "labels?", "gt", "groundtruth", "ground_truth", "seg", "segm", "segmentation", "annotations?"),
    *("colou?r", "labelIds", "labelTrainIds", "trainIds", "instanceIds", "instanceTrainIds", "trimap"),
)
_OF_SUPERANNOTATE = "___(?:fuse|save|pixel)"  # `a.jpg___fuse.png`
_MASK_STEM = re.compile(
    rf"(.+?)({_OF_SUPERANNOTATE}|[-_. ](?:(?:gtFine|gtCoarse)_)?(?:{'|'.join(_KINDS)}))", re.IGNORECASE
)
_MASK_FIRST = re.compile(rf"({'|'.join(_KINDS)})(?:[-_. ](.+))?", re.IGNORECASE)  # `mask_7.png`, or `mask.png`
_MASK_FOLDER = re.compile(
    r"masks?|labels?|annotations?|segmentations?|segmentation(class|object)\w*|segmentation_?masks?|gt([A-Z_-].*)?"
    r"|ground_?truth|masks?_.*|ann_dir|(train|val|test|images?)_?(masks?|labels?|annot)"
)
_IMAGE_FOLDERS = ("images", "imgs", "img", "image")  # beside a folder of masks; then names may differ
_IMAGE_STEM = "_leftImg8bit"  # what Cityscapes adds to the names of images


def masks_among(relative: Sequence[str], shown: str) -> list[Guess]:
    """Return the warning about images that look like masks of other images: `a_mask.png` beside `a.jpg`.

    Args:
        relative: the images' paths, relative to the input.
        shown: the input, for the message.
    """
    folders_and_stems = [_folder_and_stem(path) for path in relative]
    mask_folders = [_mask_folder(folder) for folder, _ in folders_and_stems]
    beside, paths = dict(zip(folders_and_stems, relative, strict=True)), {*relative}
    elsewhere = {
        stem.removesuffix(_IMAGE_STEM): path
        for path, (_, stem), mask_folder in zip(relative, folders_and_stems, mask_folders, strict=True)
        if mask_folder is None
    }
    folders = {f"{folder}/"[:end] for folder in {folder for folder, _ in beside} for end in _ends_of_parts(folder)}
    example, count, patterns = "", 0, dict[str, None]()
    for path, (folder, stem), mask_folder in zip(relative, folders_and_stems, mask_folders, strict=True):
        named = _MASK_STEM.fullmatch(stem)
        image = None
        if mask_folder is not None:
            image = elsewhere.get(stem) or (elsewhere.get(named[1]) if named else None)
            image = image or _folder_beside(folder, mask_folder, folders)
            pattern = f"{mask_folder}/*" if folder.split("/")[0] == mask_folder else f"*/{mask_folder}/*"
        if image is None and named:
            image = beside.get((folder, named[1])) or beside.get((folder, named[1] + _IMAGE_STEM))
            if image is None and (whole := posixpath.join(folder, named[1])) in paths:  # with the image's suffix
                image = whole
            pattern = f"*{named[2]}{posixpath.splitext(path)[1]}"
        if image is None and (first := _MASK_FIRST.fullmatch(stem)):
            number = stem[len(first[1]) :]  # with what separates it: `image_7.jpg` and `mask_7.png`
            names = [name for name in (first[2], f"image{number}", f"img{number}") if name]
            image = next((beside[folder, name] for name in names if (folder, name) in beside), None)
            pattern = f"{first[1]}{number[:1]}{'*' if number else ''}{posixpath.splitext(path)[1]}"
        if image is not None:
            example = example or f"{path} of {image}"
            count += 1
            patterns[pattern] = None
    if not count:
        return []
    look = "1 image looks like a mask of another" if count == 1 else f"{count} images look like masks of others"
    options = " ".join(f"--exclude {shlex.quote(pattern)}" for pattern in patterns)
    message = f"{shown}: {look} ({example}); leave them out with {options} (in Python, exclude={list(patterns)})"
    return [Guess("looks-like-masks", message, count)]


def _folder_and_stem(path: str) -> tuple[str, str]:
    folder, name = posixpath.split(path)
    return folder, posixpath.splitext(name)[0]


def _ends_of_parts(folder: str) -> list[int]:
    return [place + 1 for place, letter in enumerate(f"{folder}/") if letter == "/"]


def _folder_beside(folder: str, mask_folder: str, folders: set[str]) -> str | None:
    """Return the folder of images that is beside a folder of masks; None if there is none."""
    parts = folder.split("/")
    above = parts[: parts.index(mask_folder)]
    return next((path for name in _IMAGE_FOLDERS if (path := "/".join([*above, name, ""])) in folders), None)


def _mask_folder(folder: str) -> str | None:
    """Return the part of a folder's path that is named like a folder of masks; None if there is none."""
    for name in folder.split("/"):
        if _MASK_FOLDER.fullmatch(name) or _MASK_FOLDER.fullmatch(name.lower()):
            return name
    return None
