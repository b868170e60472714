"""What facts mean: the findings of a check, each with a stable code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_segformer._guesses import Guess
from ray_segformer._labels import Labels, not_classes
from ray_segformer.inputs import InputError
from ray_segformer.jobs._resizing import SHRUNK, SQUASHED, Kept
from ray_segformer.jobs._totals import Cases, Totals

HIDDEN, OTHERS = "hidden-files", "other-files"  # the codes of what is not looked at

# What is said of the images of a case, by the code of its finding. The number of images comes before it.
_SENTENCES = {
    "first-frame-only": "several frames or pages, of which only the first is segmented",
    "annotation-size": "an annotation of another size than the image, where `evaluate` ends",
    "lossy-annotation": "an annotation in a lossy format",
    "annotation-in-colors": "an annotation in colours",
    "color-without-class": "an annotation with colours that stand for no class",
}


@dataclass(frozen=True)
class Finding:
    """Something that a run would stop at, or that would change its results.

    Attributes:
        code: what kind of finding it is; it stays the same in all versions.
        message: a sentence.
        rows: how many images or files it concerns; None if it concerns the input or the model as a whole.
        path: one of them.
    """

    code: str
    message: str
    rows: int | None = None
    path: str | None = None


def findings_of_guesses(guesses: Iterable[Guess]) -> list[Finding]:
    """Return the guesses about the input or the model as findings, except those about hidden files."""
    return [Finding(guess.code, guess.message, guess.rows) for guess in guesses if guess.code != HIDDEN]


def findings_of_images(totals: Totals) -> list[Finding]:
    """Return the findings about the images and their preprocessing."""
    found = _unreadable("unreadable-image", totals.images.unreadable, "image", "--on-error keep goes on without them")
    found += _of_case(totals, "first-frame-only")
    squashed, shrunk = totals.cases.get("squashed"), totals.cases.get("shrunk")
    if squashed and totals.most_squashed:
        path, kept = totals.most_squashed
        message = f"resizing changes the aspect ratio of {_images(squashed['rows'])} by {SQUASHED:g} or more: {kept}"
        found.append(Finding("squashed", f"{message}. {_what_keeps_it(kept)}", squashed["rows"], path))
    if shrunk and totals.most_shrunk:
        path, kept = totals.most_shrunk
        message = f"resizing keeps less than {SHRUNK:.1%} of the rows or columns of {_images(shrunk['rows'])}: {kept}"
        found.append(Finding("shrunk", f"{message}. {_what_keeps_it(kept, shrinks=True)}", shrunk["rows"], path))
    return found


def findings_of_annotations(totals: Totals, labels: Labels, id2label: Mapping[int, str] | None) -> list[Finding]:
    """Return the findings about the annotations.

    Args:
        totals: the facts.
        labels: how annotations become class ids of the model; without a model, it has as many classes as there are ids.
        id2label: the names of the model's classes; None without a model.
    """
    found = _unreadable("unreadable-annotation", totals.annotations.unreadable, "annotation", "`evaluate` ends there")
    for code in ("annotation-size", "lossy-annotation", "annotation-in-colors", "color-without-class"):
        found += _of_case(totals, code)
    unknown = sorted(class_id for class_id in totals.pixels if is_unknown(class_id, labels))
    if unknown:
        found.append(_unknown_ids(totals, labels, unknown))
    counts = counts_of(totals, labels)
    if not counts.any():
        return found
    try:
        labels.check(counts)
    except InputError as error:
        code = "only-background" if counts[:-1].any() else "all-ignored"
        return [*found, Finding(code, str(error))]
    if id2label is not None:
        found += findings_of_guesses(labels.guesses(counts, id2label))
    return found


def findings_of_pairs(totals: Totals, without_annotation: Sequence[str], without_image: Sequence[str]) -> list[Finding]:
    """Return the findings about images without annotation, and annotations without image.

    Args:
        totals: the facts, where null annotations are.
        without_annotation, without_image: the paths of all images, and of all annotations, whose names do not pair.
    """
    null = totals.cases.get("no-annotation") or {"rows": 0, "path": None}
    images, path = (
        (len(without_annotation), without_annotation[0]) if without_annotation else (null["rows"], null["path"])
    )
    found = []
    if images:
        message = f"{_images(images)} {_have(images)} no annotation: `evaluate` refuses such an input"
        found.append(Finding("no-annotation", message, images, path))
    if without_image:
        count = len(without_image)
        message = f"{_counted(count, 'annotation')} {_have(count)} the name of no image: nothing reads them"
        found.append(Finding("no-image", message, count, without_image[0]))
    return found


def counts_of(totals: Totals, labels: Labels) -> npt.NDArray[np.int64]:
    """Return the numbers of pixels of each class, and of those that are ignored, as `Labels.count` does."""
    counts = np.zeros(labels.num_classes + 1, np.int64)
    for class_id, pixels in totals.pixels.items():
        if class_id in labels.ignored_ids:
            counts[-1] += pixels
        elif class_id < labels.num_classes:
            counts[class_id] += pixels
    return counts


def is_unknown(class_id: int, labels: Labels) -> bool:
    """Return whether an id is no class of the model and is not ignored."""
    return class_id >= labels.num_classes and class_id not in labels.ignored_ids


def _unknown_ids(totals: Totals, labels: Labels, unknown: list[int]) -> Finding:
    pixels = sum(totals.pixels[class_id] for class_id in unknown)
    images = max(totals.annotated_images[class_id] for class_id in unknown)  # at least
    message = not_classes(labels, unknown, pixels, totals.pixels.total())
    return Finding("unknown-class-id", message, images, totals.first_paths[unknown[0]])


def _unreadable(code: str, cases: Cases, what: str, hint: str) -> list[Finding]:
    if not cases.rows:
        return []
    causes = "; ".join(f"{case['rows']} {case['message']}" for case in cases.as_json().values())
    path = next(iter(cases.as_json().values()))["path"]
    return [Finding(code, f"{_counted(cases.rows, what)} cannot be read ({hint}): {causes}", cases.rows, path)]


def _of_case(totals: Totals, code: str) -> Iterable[Finding]:
    case = totals.cases.get(code)
    if case:
        example = f", such as: {case['message']}" if case["message"] else ""
        message = f"{_images(case['rows'])} {_have(case['rows'])} {_SENTENCES[code]}{example}"
        yield Finding(code, message, case["rows"], case["path"])


def _what_keeps_it(kept: Kept, *, shrinks: bool = False) -> str:
    """Return which options show the network more of an image."""
    window = f"--window {min(kept.resized_height, kept.resized_width)}"
    options = window if shrinks else f"--resize short-side or {window}"
    return f"`predict` and `evaluate` keep it with {options}"


def _images(count: int) -> str:
    return _counted(count, "image")


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
