"""The facts of many images, added up in little memory."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_segformer.images import cause_of
from ray_segformer.jobs._facts import Facts
from ray_segformer.jobs._resizing import Kept, kept_of
from ray_segformer.pretrained import ImageSettings

_TRAITS = ("exif_rotated", "deep", "several_frames")
_SIDE_BITS = 32
_WIDTH = np.uint64(2**_SIDE_BITS - 1)
_COLOURS = ("RGB", "RGBA")


class Cases:
    """How often each of several cases occurs, with the path of its first image and a message."""

    def __init__(self) -> None:
        self._cases: dict[str, dict[str, Any]] = {}

    def add(self, case: str, path: str, message: str = "") -> None:
        """Count an image."""
        self._cases.setdefault(case, {"rows": 0, "path": path, "message": message})["rows"] += 1

    def get(self, case: str) -> dict[str, Any] | None:
        """Return `rows`, `path` and `message` of a case; None if it did not occur."""
        return self._cases.get(case)

    @property
    def rows(self) -> int:
        """The number of images of all cases."""
        return sum(case["rows"] for case in self._cases.values())

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return `rows`, `path` and `message` by case, the most frequent first."""
        return dict(sorted(self._cases.items(), key=lambda item: -item[1]["rows"]))


class Sizes:
    """The sizes of images: eight bytes each."""

    def __init__(self) -> None:
        self._sides = array("Q")

    def __len__(self) -> int:
        return len(self._sides)

    def add(self, height: int, width: int) -> None:
        """Add a size."""
        self._sides.append(height << _SIDE_BITS | width)

    def by_rank(self) -> dict[str, tuple[int, int]]:
        """Return height and width of the `smallest`, `median` and `largest` image by the number of pixels."""
        if not self._sides:
            return {}
        sides = np.frombuffer(self._sides, np.uint64)
        heights, widths = (sides >> np.uint64(_SIDE_BITS)).astype(np.int64), (sides & _WIDTH).astype(np.int64)
        order = np.argsort(heights * widths, kind="stable")
        ranks = {"smallest": 0, "median": (len(order) - 1) // 2, "largest": -1}
        return {name: (int(heights[order[rank]]), int(widths[order[rank]])) for name, rank in ranks.items()}


@dataclass
class FileTotals:
    """What files there are.

    Attributes:
        kinds: the number of readable files by `Header.kind`.
        traits: those that are `exif_rotated` or `deep`, or have `several_frames`.
        unreadable: the others, by `cause_of`.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    traits: Cases = field(default_factory=Cases)
    unreadable: Cases = field(default_factory=Cases)

    def add(self, path: str, facts: Facts) -> bool:
        """Count a file, and return whether it is readable."""
        if facts["error"] is not None:
            self.unreadable.add(cause_of(facts["error"]), path, facts["error"])
            return False
        self.kinds[f"{facts['format']} {facts['mode']}"] += 1
        for trait in _TRAITS:
            if facts[trait]:
                self.traits.add(trait, path)
        return True


class Totals:
    """The facts of all images, added up.

    Args:
        settings: the preprocessing of a checkpoint; None if there is none.
        has_colors: whether annotations have colours that stand for classes.

    Attributes:
        rows: the number of images that were looked at.
        images, annotations: their files.
        sizes: of the readable images.
        cases: what is wrong with single images, by the code of the finding.
        pixels: the numbers of annotated pixels by class id.
        annotated_images: the numbers of annotations that have a class id.
        first_paths: the path of the first image that has a class id.
        most_squashed, most_shrunk: the path of an image whose aspect ratio, or number of rows or columns, changes most,
            and what is kept of it; None without settings or images.
    """

    def __init__(self, settings: ImageSettings | None = None, *, has_colors: bool = False) -> None:
        self.rows = 0
        self.images, self.annotations = FileTotals(), FileTotals()
        self.sizes, self.cases = Sizes(), Cases()
        self.pixels, self.annotated_images = Counter[int](), Counter[int]()
        self.first_paths: dict[int, str] = {}
        self.most_squashed: tuple[str, Kept] | None = None
        self.most_shrunk: tuple[str, Kept] | None = None
        self._settings = settings
        self._has_colors = has_colors

    def add(self, facts: Facts) -> None:
        """Add the facts of one image, as `ReadFacts` returns them."""
        self.rows += 1
        path, image = facts["path"], facts["image"]
        if self.images.add(path, image):
            self.sizes.add(image["height"], image["width"])
            if image["several_frames"]:
                self.cases.add("first-frame-only", path)
            if self._settings is not None:
                self._add_resizing(path, kept_of(self._settings, image["height"], image["width"]))
        if "annotation" in facts:
            self._add_annotation(path, image, facts["annotation"])

    def _add_resizing(self, path: str, kept: Kept) -> None:
        if kept.is_squashed:
            self.cases.add("squashed", path)
        if kept.is_shrunk:
            self.cases.add("shrunk", path)
        if self.most_squashed is None or kept.aspect_change > self.most_squashed[1].aspect_change:
            self.most_squashed = path, kept
        if self.most_shrunk is None or kept.least < self.most_shrunk[1].least:
            self.most_shrunk = path, kept

    def _add_annotation(self, path: str, image: Facts, annotation: Facts | None) -> None:
        if annotation is None:
            self.cases.add("no-annotation", path)
            return
        if annotation["error"] is not None:
            code = self._code_of(annotation)
            if code is not None:
                self.cases.add(code, path, annotation["error"])
                return
        if not self.annotations.add(path, annotation):
            return
        for class_id, pixels in annotation["ids"].items():
            self.pixels[int(class_id)] += pixels
            self.annotated_images[int(class_id)] += 1
            self.first_paths.setdefault(int(class_id), path)
        sizes = [f"{facts.get('height')} x {facts.get('width')}" for facts in (annotation, image)]
        if image["error"] is None and sizes[0] != sizes[1]:
            self.cases.add("annotation-size", path, f"{sizes[0]} pixels, but its image has {sizes[1]}")

    def _code_of(self, annotation: Facts) -> str | None:
        """Return the code of the finding for an annotation that holds no class ids; None if it cannot be read."""
        if annotation.get("lossy"):
            return "lossy-annotation"
        if cause_of(annotation["error"]) != "wrong pixels" or annotation["deep"]:
            return None
        if self._has_colors:
            return "color-without-class"
        return "annotation-in-colors" if annotation["mode"] in _COLOURS else None
