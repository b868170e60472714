"""The annotated images of an input before they are read, and the stages that read them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ray_segformer.guesses import Guess
from ray_segformer.images import ImageError, encoded_bytes, public_uri
from ray_segformer.inputs.blocks import ROWS_PER_BLOCK, small_blocks
from ray_segformer.inputs.find import find_images
from ray_segformer.inputs.image_input import ImageInput, InputError
from ray_segformer.inputs.parquet import READING_CPUS

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class AnnotatedInput:
    """The annotated images of an input.

    Attributes:
        rows: the number of images.
        dataset: makes a lazy Ray dataset of `path`, `image` and `annotation`, as `read_images` describes it.
        sample: returns rows without Ray, as many as its argument says or all there are, spread over the input where it
            has files. Their `annotation` is a cell of what `dataset` gives: a path, encoded bytes or `{"bytes",
            "path"}`. They have `path`, too.
        reduce_labels: whether annotations are numbered as in ADE20K's files; None if the layout does not say.
        guesses: what is to be said about the input, such as files that are not looked at.
    """

    rows: int
    dataset: Callable[[], ray.data.Dataset]
    sample: Callable[[int], list[Row]]
    reduce_labels: bool | None = None
    guesses: list[Guess] = field(default_factory=list)


def of_files(rows: list[Row], convert: Callable[[bytes], bytes] | None = None, **options: Any) -> AnnotatedInput:
    """Return annotated images that are files.

    Args:
        rows: `path`, and the cells `image` and `annotation`.
        convert: makes another file of the bytes of an annotation, in the task that reads it.
        options: further attributes.
    """

    def dataset() -> ray.data.Dataset:
        table = pa.Table.from_pylist([{name: row[name] for name in ("path", "image", "annotation")} for row in rows])
        return small_blocks(table).map_batches(read, batch_format="pyarrow", batch_size=ROWS_PER_BLOCK)

    def read(batch: pa.Table) -> pa.Table:
        return read_files(batch, convert)

    def sample(count: int) -> list[Row]:
        return [{**rows[place], "annotation": cell(rows[place])} for place in spread(len(rows), count)]

    def cell(row: Row) -> Any:
        return row["annotation"] if convert is None else bytes_or_null(row["annotation"], row["path"], convert)

    return AnnotatedInput(len(rows), dataset, sample, **options)


def of_parquet(found: ImageInput) -> AnnotatedInput:
    """Return annotated images in parquet. A sample is the first rows: others cost the reading of whole row groups."""
    # With whole blocks as batches and with the same CPUs, Ray Data fuses this stage with the reading. A task still
    # handles a single row group.
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": READING_CPUS}

    def dataset() -> ray.data.Dataset:
        return found.dataset().map_batches(read_files, **options)

    return AnnotatedInput(found.rows, dataset, found.take, guesses=found.guesses)


def by_name(images: str, annotations: str, exclude: Sequence[str] = ()) -> AnnotatedInput:
    """Return the images of a folder, each with the annotation of its name in another folder.

    Args:
        images, exclude: as for `find_images`.
        annotations: a folder.

    Raises:
        InputError: there are no images, or one has no annotation, which the message names.
    """
    found = find_images(images, exclude=exclude)
    rows = found.take(found.rows)
    below = find_images(annotations)
    cells = {row["name"]: row["image"] for row in below.take(below.rows)}
    for row in rows:
        if row["name"] not in cells:
            raise InputError(
                f"{row['path']} has no annotation: expected {public_uri(annotations)}/{row['name']}.png, "
                "a PNG of class ids"
            )
        row["annotation"] = cells[row["name"]]
    return of_files(rows, guesses=found.guesses)


def spread(rows: int, count: int) -> list[int]:
    """Return the numbers of `count` rows that are evenly spread, the first and the last among them; of all if fewer."""
    return sorted({int(place) for place in np.linspace(0, rows - 1, min(rows, count)).round()})


def also(others: int) -> str:
    """Return how an error about one image says that it is not the only one."""
    return f" (nor have {others} others)" if others else ""


def read_files(batch: pa.Table, convert: Callable[[bytes], bytes] | None = None) -> pa.Table:
    """Return `path`, and `image` and `annotation` with the bytes of their files in place of paths."""
    columns = {"path": batch.column("path")}
    for name in ("image", "annotation"):
        if name in batch.column_names:
            pairs = zip(batch.column(name).to_pylist(), batch.column("path").to_pylist(), strict=True)
            change = convert if name == "annotation" else None
            columns[name] = pa.array([bytes_or_null(cell, path, change) for cell, path in pairs], pa.binary())
    return pa.table(columns)


def bytes_or_null(cell: Any, path: str, convert: Callable[[bytes], bytes] | None = None) -> bytes | None:
    """Return the bytes of the file in a cell, converted; None, with a warning in the log, if it cannot be read."""
    try:
        content = encoded_bytes(cell)
        return content if convert is None else convert(content)
    except ImageError as error:
        logger.warning("%s: %s", path, error)
        return None
