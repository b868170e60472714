"""A check of an input: what a run of `predict` or `evaluate` would meet. Nothing is predicted or written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ray_segformer._labels import Labels
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.images import MAX_PIXELS
from ray_segformer.inputs import AnnotatedInput, ImageInput
from ray_segformer.jobs._facts import ReadFacts
from ray_segformer.jobs._findings import (
    HIDDEN,
    OTHERS,
    counts_of,
    findings_of_annotations,
    findings_of_guesses,
    findings_of_images,
    findings_of_pairs,
)
from ray_segformer.jobs._progress import with_progress
from ray_segformer.jobs._resizing import kept_of
from ray_segformer.jobs._totals import FileTotals, Totals

CHECKED_ROWS = 1000
"""The images that `check` reads by default, about."""


def check(
    found: ImageInput | AnnotatedInput,
    labels: Labels,
    checkpoint: SegformerCheckpoint | None = None,
    *,
    sample: int | None = CHECKED_ROWS,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
) -> dict[str, Any]:
    """Read images and annotations of an input on Ray, without a network, and report what they are.

    Images are decoded, so that damaged ones are found. One that cannot be read is counted, and ends nothing.

    Args:
        found: the input, from `find_input`.
        labels: how annotations become class ids of the model. Without a model, it has 65536 classes.
        checkpoint: the model that is to run on the input; None if it is not known yet.
        sample: about how many images to look at, spread evenly over the input. None for all. Default: 1000.
        max_pixels: a larger image cannot be read. Default: `MAX_PIXELS`.
        progress: whether to show on stderr how many images are done. Default: False.

    Returns:
        A report of JSON types. `rows`: the images of the input. `looked_at`: those that were read; all further numbers
        are of them.

        * `images`: `kinds` (the numbers of readable files by format and Pillow's mode, such as "JPEG CMYK"), `traits`
          (those that are `exif_rotated`, `deep`, which is more than 8 bits a channel, or have `several_frames`),
          `sizes` (`height` and `width` of the `smallest`, `median` and `largest` by pixels) and `unreadable`. The last
          has `rows`, the `path` of one and its `message` for each cause of `cause_of`; `traits` are of the same form.
        * `not_looked_at`: `code` ("hidden-files" or "other-files"), `message` and `rows`, the number of such files.
        * `annotations`: null if the input has none. `kinds`, `traits` and `unreadable`; `classes`: `id`, `name`,
          `pixels`, their `share` of those that are not ignored, and `images` that have it, for each class of the model,
          and for each other id that occurs, whose name is null; `ignored_pixels`.
        * `preprocessing`: null without a model. `size` and `do_resize` as in its settings; what is kept of the
          `median` image and, with their `path`, of the `most_squashed` and the `most_shrunk` one; see `Kept`.
        * `findings`: `code`, `message`, `rows` and `path` of each `Finding`.
    """
    settings = checkpoint.get_preprocessor() if checkpoint is not None else None
    totals = Totals(settings, has_colors=labels.has_colors)
    is_annotated = isinstance(found, AnnotatedInput)
    convert = found.convert if isinstance(found, AnnotatedInput) else None
    cells = found.cells(sample) if isinstance(found, AnnotatedInput) else found.dataset(sample=sample)
    rows = cells.map_batches(ReadFacts(labels, max_pixels, convert), batch_size=None).iter_rows()
    for row in with_progress(rows, min(sample or found.rows, found.rows)) if progress else rows:
        totals.add(json.loads(row["facts"]))
    id2label = checkpoint.id2label if checkpoint is not None else None
    findings = [*findings_of_guesses(found.guesses), *findings_of_images(totals)]
    if isinstance(found, AnnotatedInput):
        findings += findings_of_pairs(totals, found.without_annotation, found.without_image)
        findings += findings_of_annotations(totals, labels, id2label)
    if checkpoint is not None:
        findings += findings_of_guesses(checkpoint.content.guesses)
    sizes = {name: {"height": height, "width": width} for name, (height, width) in totals.sizes.by_rank().items()}
    return {
        "rows": found.rows,
        "looked_at": totals.rows,
        "images": {**_files(totals.images), "sizes": sizes},
        "not_looked_at": [guess.as_json(0) for guess in found.guesses if guess.code in (HIDDEN, OTHERS)],
        "annotations": _annotations(totals, labels, id2label) if is_annotated else None,
        "preprocessing": _preprocessing(totals, settings) if settings is not None else None,
        "findings": [asdict(finding) for finding in findings],
    }


def _files(totals: FileTotals) -> dict[str, Any]:
    return {
        "kinds": dict(totals.kinds.most_common()),
        "traits": totals.traits.as_json(),
        "unreadable": totals.unreadable.as_json(),
    }


def _annotations(totals: Totals, labels: Labels, id2label: Mapping[int, str] | None) -> dict[str, Any]:
    counts = counts_of(totals, labels)
    occurring = [class_id for class_id in totals.pixels if class_id not in labels.ignored_ids]
    not_ignored = sum(totals.pixels[class_id] for class_id in occurring)
    classes = [
        {
            "id": class_id,
            "name": (id2label or {}).get(class_id),
            "pixels": totals.pixels[class_id],
            "share": totals.pixels[class_id] / not_ignored if not_ignored else 0.0,
            "images": totals.annotated_images[class_id],
        }
        for class_id in sorted({*(id2label or ()), *occurring} - {*labels.ignored_ids})
    ]
    return {**_files(totals.annotations), "classes": classes, "ignored_pixels": int(counts[-1])}


def _preprocessing(totals: Totals, settings: Any) -> dict[str, Any]:
    median = totals.sizes.by_rank().get("median")
    described = {
        name: {"path": case[0], **asdict(case[1])} if case else None
        for name, case in (("most_squashed", totals.most_squashed), ("most_shrunk", totals.most_shrunk))
    }
    return {
        "size": settings.size,
        "do_resize": settings.do_resize,
        "median": asdict(kept_of(settings, *median)) if median else None,
        **described,
    }
