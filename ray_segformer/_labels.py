"""What a model makes of a dataset's annotations: class ids that it knows, or a reason to refuse them.

Annotations that do not fit a model give scores and trainings that look fine and are wrong. Annotations that cannot be
right raise an error. A class that is hardly annotated causes a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer._guesses import Guess
from ray_segformer.images import MAX_PIXELS, ImageError, LabelFormat, reduce_labels
from ray_segformer.inputs import InputError

_LOOKED_AT, _LOOKED_AT_IN_DOUBT = 16, 256  # annotations, before anything is made of a dataset
_HARDLY = 1e-4  # the share of annotated pixels below which a class is hardly annotated
_NAMED = 5  # classes, or ids, in a message

Counts = npt.NDArray[np.int64]


class Labels:
    """How annotations become the class ids of a model.

    Args:
        num_classes: the number of the model's classes.
        ignored_ids: the ids of pixels that do not count. The first stands for all of them in `class_ids`.
        reduce_labels: whether annotations are numbered as in ADE20K's files: 0 is ignored, and classes count from 1.
            They are reduced after `label_map`.
        label_map, label_colors: see `LabelFormat`.
        ignore_index: another id of the annotations to ignore, such as 65535. An id that is ignored already confirms
            that this is on purpose, so that `check` accepts it. Default: None.

    Attributes:
        has_colors: whether there are `label_colors`.

    Raises:
        ValueError: an id or a colour is invalid, `label_map` maps `ignore_index` to a class, or it maps an id to a
            class that the model does not have.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignored_ids: Sequence[int] = (255,),
        reduce_labels: bool = False,
        label_map: Mapping[int, int] | None = None,
        label_colors: Mapping[tuple[int, int, int], int] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        ignored = ignored_ids[0]
        label_map = dict(label_map or {})
        if ignore_index is not None and ignore_index not in range(2**16):
            raise ValueError(f"ignore_index is a class id of the annotations, in [0, 65535], not {ignore_index!r}")
        if ignore_index is not None and label_map.setdefault(ignore_index, ignored) not in ignored_ids:
            raise ValueError(f"ignore_index: label_map gives the id {ignore_index} the class {label_map[ignore_index]}")
        self.num_classes = num_classes
        self.ignored_ids = tuple(ignored_ids)
        self.reduce_labels = reduce_labels
        self.has_colors = label_colors is not None
        self._format = LabelFormat(label_map, label_colors)
        first = int(reduce_labels)
        for old, new in label_map.items():
            if new not in ignored_ids and new >= num_classes + first:
                classes = f"{first} to {num_classes - 1 + first}"
                raise ValueError(f"label_map gives {old} the class {new}; the model's classes are {classes}")
        meant = {*label_map.values(), *(label_colors or {}).values()}
        self._ignores_on_purpose = not meant.isdisjoint(self.ignored_ids)

    def class_ids(self, cell: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[Any]:
        """Return the annotation in a cell as class ids of the model.

        Args:
            cell, max_pixels: as for `LabelFormat.class_ids`.

        Returns:
            `(H, W)`: classes of the model, and the first of `ignored_ids`; uint8 or uint16, or int32 if neither can
            hold that id.

        Raises:
            ImageError: as for `LabelFormat.class_ids`; or an id is no class of the model. The message names the id, and
                the options that help.
        """
        ids = self.known_and_unknown_ids(cell, max_pixels)
        if ids.max() >= self.num_classes:
            unknown = ids[(ids >= self.num_classes) & (ids != self.ignored_ids[0])]
            if unknown.size:
                message = not_classes(self, np.unique(unknown).tolist(), unknown.size, ids.size)
                raise ImageError(f"wrong annotation: {message}")
        return ids

    def known_and_unknown_ids(self, cell: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[Any]:
        """Return the annotation in a cell as `class_ids` does, with ids that are no class of the model left in.

        Raises:
            ImageError: as for `LabelFormat.class_ids`.
        """
        ids: npt.NDArray[Any] = self._format.class_ids(cell, max_pixels)
        ignored = self.ignored_ids[0]
        if self.reduce_labels or len(self.ignored_ids) > 1:
            ids = ids if 0 <= ignored <= np.iinfo(ids.dtype).max else ids.astype(np.int32)
            ids = reduce_labels(ids, ignored) if self.reduce_labels else ids
            ids = np.where(np.isin(ids, self.ignored_ids), np.asarray(ignored, ids.dtype), ids)
        return ids

    def count(self, ids: npt.NDArray[Any]) -> Counts:
        """Count the pixels of each class in the result of `class_ids`.

        Returns:
            int64 `(num_classes + 1,)`; the last counts the pixels that are ignored. The counts of several images can be
            added.
        """
        counted = ids[ids != self.ignored_ids[0]]
        return np.append(np.bincount(counted, minlength=self.num_classes), ids.size - counted.size)

    def check(self, counts: Counts) -> None:
        """Refuse annotations that cannot be right.

        Args:
            counts: of all the images, from `count`.

        Raises:
            InputError: every pixel is ignored; or only class 0 is annotated and other pixels are ignored, but no option
                says that this is on purpose. Masks of 0 and 255 are an example: their foreground would never count.
        """
        ignored, reduced = self.ignored_ids[0], self.reduce_labels
        if _all_ignored(counts):
            raise InputError(
                f"every pixel of the annotations is ignored, because its id is {'0 or ' * reduced}{ignored}; give such "
                "ids classes with --label-map FROM=TO (label_map=)"
                + (", or count classes from 0 with --labels as-is (reduce_labels=False)" if reduced else "")
            )
        if self._is_two_valued(counts) and reduced:
            raise InputError(
                "annotations hold only 1 and ids that are ignored, 0 among them, because labels are reduced; if 0 is a "
                "class, use --labels as-is (reduce_labels=False); if 0 is to be ignored, use --ignore-index 0 "
                "(ignore_index=0)"
            )
        if self._is_two_valued(counts):
            raise InputError(
                f"annotations hold only 0 and {ignored}, and {ignored} is ignored; if {ignored} is the foreground, use "
                f"--label-map {ignored}=1 (label_map={{{ignored}: 1}}); if {ignored} is to be ignored, use "
                f"--ignore-index {ignored} (ignore_index={ignored})"
            )

    def look(self, sample: Callable[[int], Iterable[Mapping[str, Any]]], max_pixels: int = MAX_PIXELS) -> None:
        """Check some annotations of a dataset before it is used.

        16 are checked. While `in_doubt`, up to 256 are, because a class may be rare.

        Args:
            sample: returns as many rows as its argument says, or all there are, with `path` and `annotation`.
            max_pixels: as for `class_ids`.

        Raises:
            ImageError: as for `class_ids`. The message names the image.
            InputError: as for `check`, if they are in doubt.
        """
        for number in (_LOOKED_AT, _LOOKED_AT_IN_DOUBT):
            counts = np.zeros(self.num_classes + 1, np.int64)
            for row in sample(number):
                counts += self.count_row(row["path"], row["annotation"], max_pixels)
            if not self.in_doubt(counts):
                return
        self.check(counts)

    def in_doubt(self, counts: Counts) -> bool:
        """Return whether `check` would refuse some annotations, and no option says that an id is ignored on purpose."""
        return not self._ignores_on_purpose and (_all_ignored(counts) or self._is_two_valued(counts))

    def needs_more(self, counts: Counts, annotations: int) -> bool:
        """Return whether more annotations must be counted than the `annotations` counted so far; see `look`."""
        return annotations < (_LOOKED_AT_IN_DOUBT if self.in_doubt(counts) else _LOOKED_AT)

    def count_row(self, path: Any, cell: Any, max_pixels: int = MAX_PIXELS) -> Counts:
        """Return the counts of an annotation; an `ImageError` names the image at `path`."""
        try:
            return self.count(self.class_ids(cell, max_pixels))
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error

    def guesses(self, counts: Counts, id2label: Mapping[int, str]) -> list[Guess]:
        """Return the warnings about classes that are never or hardly annotated.

        "class-never-annotated" names classes without a pixel, "class-hardly-annotated" those with less than 0.01 % of
        the annotated pixels.

        Args:
            counts: of all the images, from `count`.
            id2label: class names by class id.
        """
        annotated = counts[:-1]
        classes = [number for number in range(self.num_classes) if number not in self.ignored_ids]
        never = [number for number in classes if not annotated[number]]
        hardly = [number for number in classes if 0 < annotated[number] < _HARDLY * annotated.sum()]
        found = []
        if never:
            message = (
                f"{len(never)} of {self.num_classes} classes are annotated in no pixel: "
                + _listed([f"{number} {id2label.get(number, '')}".strip() for number in never])
                + ". Their IoU is 0 where they are predicted, and left out of the mean where they are not"
            )
            found.append(Guess("class-never-annotated", message))
        if hardly:
            shares = [
                f"{number} {id2label.get(number, '')} ({100 * annotated[number] / annotated.sum():.2g}%)"
                for number in hardly
            ]
            message = (
                f"{len(hardly)} of {self.num_classes} classes have less than {_HARDLY:.2%} of the annotated pixels: "
                + _listed(shares)
                + ". Their scores say little"
            )
            found.append(Guess("class-hardly-annotated", message))
        return found

    def _is_two_valued(self, counts: Counts) -> bool:
        """Return whether only class 0 is annotated and other pixels are ignored without being meant to."""
        alone = counts[0] and counts[-1] and not counts[1:-1].any()
        return bool(alone and self.num_classes > 1 and not self._ignores_on_purpose)


def not_classes(labels: Labels, unknown: Sequence[int], unknown_pixels: int, pixels: int) -> str:
    """Return a sentence about ids that are no class of the model, with the options that help.

    Args:
        labels: how annotations become class ids.
        unknown: such ids, in order, as `known_and_unknown_ids` returns them. They are named as the files have them.
        unknown_pixels: how many of the `pixels` have one of them.
        pixels: the number of all pixels.
    """
    first = int(labels.reduce_labels)
    ids = [class_id + first for class_id in unknown]
    numbering = (
        "--labels as-is (reduce_labels=False) if 0 is a class"
        if labels.reduce_labels
        else "--labels reduce (reduce_labels=True) if classes count from 1, as in ADE20K"
    )
    return (
        f"the class ids {_listed(list(map(str, ids)))} (in {unknown_pixels} of {pixels} pixels) are none of the "
        f"model's {labels.num_classes} classes, which are {first} to {labels.num_classes - 1 + first}; use --label-map "
        f"{ids[0]}=... (label_map=), --ignore-index {ids[0]} (ignore_index=), or {numbering}"
    )


def _all_ignored(counts: Counts) -> bool:
    return bool(counts[-1] and not counts[:-1].any())


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
