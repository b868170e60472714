"""The annotated images of an input before they are read, and the stages that read them."""

from __future__ import annotations

import logging
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from ray_segformer._guesses import Guess
from ray_segformer.images import ImageError, cause_of, encoded_bytes, public_uri
from ray_segformer.inputs._blocks import small_blocks, spread
from ray_segformer.inputs._find import find_images
from ray_segformer.inputs._image_input import ImageInput, InputError
from ray_segformer.inputs._parquet import READING_CPUS

logger = logging.getLogger(__name__)

Row = dict[str, Any]
NO_ANNOTATIONS = "videos have no annotations; write frames as images, with annotations of the same names"

_COLUMNS = ("path", "image", "annotation")
_ROWS_PER_TASK = 8


@dataclass(frozen=True)
class AnnotatedInput:
    """The annotated images of an input.

    Attributes:
        rows: the number of images.
        dataset: makes a lazy Ray dataset of `path`, `image` and `annotation`, as `read_images` describes it.
        sample: returns rows without Ray, as many as its argument says or all there are, spread over the input where it
            has files. Their `annotation` is a cell of what `dataset` gives: a path, encoded bytes or `{"bytes",
            "path"}`. They have `path`, too.
        cells: makes a lazy Ray dataset of the same columns, whose files are not read yet: cells may be paths, or null.
            It has all rows, or about as many as its argument says, spread over the input.
        convert: makes another file of the bytes of an annotation of `cells`, if `dataset` has that one.
        reduce_labels: whether annotations are numbered as in ADE20K's files; None if the layout does not say.
        guesses: the warnings about the input, such as files that are not looked at.
        without_annotation: the paths of images without annotation; see `find_annotated`.
        without_image: the paths of annotations without image, where the layout pairs files by name.
        file: a file that tasks read, as an image cell: an image, or parquet. "" if tasks read no files.
    """

    rows: int
    dataset: Callable[[], ray.data.Dataset]
    sample: Callable[[int], list[Row]]
    cells: Callable[[int | None], ray.data.Dataset]
    convert: Callable[[bytes], bytes] | None = None
    reduce_labels: bool | None = None
    guesses: list[Guess] = field(default_factory=list)
    without_annotation: Sequence[str] = ()
    without_image: Sequence[str] = ()
    file: str = ""


def of_files(rows: list[Row], convert: Callable[[bytes], bytes] | None = None, **options: Any) -> AnnotatedInput:
    """Return annotated images that are files.

    Args:
        rows: `path`, and the cells `image` and `annotation`, which is None for an image without one.
        convert: makes another file of the bytes of an annotation, in the task that reads it.
        options: further attributes.
    """

    def cells(count: int | None) -> ray.data.Dataset:
        chosen = rows if count is None else [rows[place] for place in spread(len(rows), count)]
        columns = {name: pa.array([row[name] for row in chosen], pa.string()) for name in _COLUMNS}
        return small_blocks(pa.table(columns))

    def dataset() -> ray.data.Dataset:
        # Ray Data gives a task at least a batch of rows. Few images are to be divided among all workers, too.
        return cells(None).map_batches(read, batch_format="pyarrow", batch_size=_ROWS_PER_TASK)

    def read(batch: pa.Table) -> pa.Table:
        return read_files(batch, convert)

    def sample(count: int) -> list[Row]:
        return [{**rows[place], "annotation": annotation(rows[place])} for place in spread(len(rows), count)]

    def annotation(row: Row) -> Any:
        return row["annotation"] if convert is None else bytes_or_null(row["annotation"], row["path"], convert)

    missing = [row["path"] for row in rows if row["annotation"] is None]
    return AnnotatedInput(
        len(rows), dataset, sample, cells, convert, without_annotation=missing, file=rows[0]["image"], **options
    )


def of_parquet(found: ImageInput) -> AnnotatedInput:
    """Return annotated images in parquet. A sample is the first rows: others cost the reading of whole row groups."""
    # With whole blocks as batches and with the same CPUs, Ray Data fuses this stage with the reading. A task still
    # handles a single row group.
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": READING_CPUS}

    def dataset() -> ray.data.Dataset:
        return found.dataset().map_batches(read_files, **options)

    def cells(count: int | None) -> ray.data.Dataset:
        return found.dataset(sample=count)

    return AnnotatedInput(found.rows, dataset, found.take, cells, guesses=found.guesses, file=found.file)


def by_name(
    images: str | Sequence[str], annotations: str, exclude: Sequence[str] = (), *, strict: bool = True
) -> AnnotatedInput:
    """Return the images of a folder, each with the annotation of its name in another folder.

    Args:
        images, exclude: as for `find_images`.
        annotations: a folder.
        strict: see `find_annotated`.

    Raises:
        InputError: there are no images, or one has no annotation, which the message names.
    """
    found = find_images(images, exclude=exclude)
    shown = public_uri(images if isinstance(images, str) else images[0])
    if found.columns.names:
        raise InputError(f"{shown}: {NO_ANNOTATIONS}")
    rows = found.take(found.rows)
    if not isinstance(rows[0]["image"], str):
        raise InputError(f"{shown}: images in parquet have no files of annotations; put annotations into a column")
    try:
        found_annotations = find_images(annotations)
    except InputError as error:
        raise InputError(
            f"{error}; annotations are PNGs of class ids: draw polygons, such as YOLO's .txt and COCO's .json, as masks"
        ) from error
    below = found_annotations.take(found_annotations.rows)
    pairs = _paired(rows, below)
    for row, pair in zip(rows, pairs, strict=True):
        if strict and pair is None:
            names = sorted(each["name"] for each in below)
            expected = f"{_own_name(row)}.png"
            similar = next((name for name in names if row["name"] in name), None)
            advice = f"; {similar} is there: name annotations as their images" if similar else ""
            if [_own_name(each) for each in below].count(_own_name(row)) > 1:
                advice = "; several annotations are called so: leave one in that folder"
            elif [_own_name(each) for each in rows].count(_own_name(row)) > 1:
                expected = f"{row['name']}.png"
                advice = f"; several images are called {_own_name(row)}: leave one out (--exclude, exclude=)"
            raise InputError(
                f"{row['path']} has no annotation: expected {public_uri(annotations)}/{expected}, a PNG of class "
                f"ids{advice}"
            )
        row["annotation"] = None if pair is None else pair["image"]
    used = {pair["path"] for pair in pairs if pair is not None}
    without_image = [row["path"] for row in below if row["path"] not in used]
    return of_files(rows, guesses=found.guesses, without_image=without_image)


def _paired(images: list[Row], annotations: list[Row]) -> list[Row | None]:
    """Return the annotation of each image: by its name, else by its path, else by its path in Unicode's form NFC.

    Each counts where it is the only one of several images, and of several annotations.
    """
    pairs: list[Row | None] = [None] * len(images)
    for name_of in (lambda row: row["name"], _own_name, lambda row: unicodedata.normalize("NFC", _own_name(row))):
        of_images, of_annotations = (Counter(map(name_of, rows)) for rows in (images, annotations))
        unique = {name_of(row): row for row in annotations if of_annotations[name_of(row)] == 1}
        for place, row in enumerate(images):
            if pairs[place] is None and of_images[name_of(row)] == 1:
                pairs[place] = unique.get(name_of(row))
    return pairs


def _own_name(row: Row) -> str:
    """Return the path of a row below its input, without suffix. Two images may have the same."""
    parts = row["path"].split("/")
    return posixpath.splitext("/".join(parts[-1 - row["name"].count("/") :]))[0]


def and_others(others: int) -> str:
    """Return the part of an error about one image that says how many others have the same problem; "" for none."""
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
    """Return the bytes of the file in a cell, converted; None, with a warning in the log, if it cannot be read.

    An empty file stays one, so that it is not taken for a null.
    """
    if cell is None:
        return None
    try:
        content = encoded_bytes(cell)
        return content if convert is None else convert(content)
    except ImageError as error:
        logger.warning("%s: %s", path, error)
        return b"" if cause_of(str(error)) == "empty" else None
