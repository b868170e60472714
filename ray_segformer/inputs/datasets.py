"""Images, and their annotations, as Ray datasets of encoded bytes: blocks stay as small as the files are.

Rows have `path`, `image` (the file's bytes) and, where there are annotations, `annotation` (its file's bytes: class ids
as they are stored). Nothing is decoded here, and nothing is read before the dataset is consumed. A file that cannot be
read then is null, and a warning says why: whether that ends the job is the predictor's `on_error` to say.
"""

from __future__ import annotations

import logging
import os
import posixpath
from typing import Any

import pyarrow as pa
import ray

from ray_segformer.air import installed
from ray_segformer.images import ImageError, encoded_bytes
from ray_segformer.inputs.blocks import ROWS_PER_BLOCK, small_blocks
from ray_segformer.inputs.find import find_images, find_parquet
from ray_segformer.inputs.image_input import InputError
from ray_segformer.inputs.parquet import READING_CPUS

logger = logging.getLogger(__name__)


def read_images(source: str, *, annotations: str | None = None) -> ray.data.Dataset:
    """The images of a folder, a glob, a list file or parquet (see `ray-segformer predict`).

    Args:
        source: where the images are, local or a URI of pyarrow's file systems.
        annotations: a local folder, or a URI, with a PNG of class ids for each image: of the same name, in the same
            tree, such as `annotations/a/b.png` for `images/a/b.jpg`.

    Returns:
        A lazy dataset with `path`, `image` and, with `annotations`, `annotation`; in the order of the paths where
        Ray Data is told to preserve it.

    Raises:
        InputError: there are no images, or an image has no annotation; the message names it.
    """
    found = find_images(source)
    if annotations is None:
        return found.dataset().map_batches(_read, batch_format="pyarrow", batch_size=ROWS_PER_BLOCK)
    rows = found.take(found.rows)
    masks = _masks_below(annotations)
    for row in rows:
        if row["name"] not in masks:
            raise InputError(
                f"{row['path']} has no annotation: expected {annotations}/{row['name']}.png, a PNG of class ids"
            )
        row["annotation"] = masks[row["name"]]
    dataset = small_blocks(pa.Table.from_pylist(rows))
    return dataset.map_batches(_read, batch_format="pyarrow", batch_size=ROWS_PER_BLOCK)


def read_ade20k(root: str | os.PathLike, split: str = "validation") -> ray.data.Dataset:
    """A split of ADE20K in the layout of MIT's Scene Parsing Benchmark (`ADEChallengeData2016`).

    Args:
        root: the folder with `images/{training,validation}` and `annotations/{training,validation}`, or, of a set that
            has no splits, with `images` and `annotations` themselves; or a URI.
        split: "training", "validation", or "" for none.

    Returns:
        As `read_images`. Annotations are numbered as the files are: 0 is other, and classes count from 1
        (`reduce_labels=True`).

    Raises:
        InputError: there is no such split, or an image has no annotation; the message names it.
    """
    folders = [posixpath.join(os.fspath(root), kind, split).rstrip("/") for kind in ("images", "annotations")]
    return read_images(folders[0], annotations=folders[1])


def read_parquet(
    source: str, *, image_column: str = "image", annotation_column: str = "annotation"
) -> ray.data.Dataset:
    """The annotated images of parquet, such as the Hub's files of `scene_parse_150`.

    Args:
        source: a parquet file or a folder of them, local or a URI.
        image_column, annotation_column: columns of encoded bytes or of `{"bytes", "path"}`.

    Returns:
        As `read_images`; `path` is the column of that name or the struct's, else made of the image's bytes.

    Raises:
        InputError: there is no parquet, or no such column.
    """
    found = find_parquet(source, image_column, annotation_column)
    # Of whole blocks, and with the same CPUs, it is one task with the reading, still of one group of rows.
    return found.dataset().map_batches(_read, batch_format="pyarrow", batch_size=None, num_cpus=READING_CPUS)


def from_huggingface(
    dataset: Any, *, image_column: str = "image", annotation_column: str | None = "annotation"
) -> ray.data.Dataset:
    """A Hugging Face `datasets.Dataset`, or the directory that its `save_to_disk` wrote.

    Args:
        dataset: the dataset, whose bytes go to Ray's object store; or the directory, which tasks read as they need
            it, on every node.
        image_column, annotation_column: its columns of the type `datasets.Image`; None for no annotations.

    Returns:
        As `read_images`; a row whose dataset kept no path has "row-<number>" in its place.

    Raises:
        InputError: it has no such column, or holds several splits.
    """
    import datasets

    directory = os.fspath(dataset) if isinstance(dataset, (str, os.PathLike)) else None
    loaded = dataset if directory is None else datasets.load_from_disk(directory)
    if isinstance(loaded, datasets.DatasetDict):
        raise InputError(f"the dataset has the splits {', '.join(loaded)}; name one of them")
    columns = {"image": image_column} | ({"annotation": annotation_column} if annotation_column else {})
    for column in columns.values():
        if column not in loaded.column_names:
            raise InputError(f"the dataset has no column {column!r}, only {', '.join(loaded.column_names)}")
    if directory is None:
        return ray.data.from_arrow(_encoded(loaded, columns, 0))
    starts = [{"start": start} for start in range(0, len(loaded), ROWS_PER_BLOCK)]

    def read(batch: pa.Table) -> pa.Table:
        """The rows from number `start` on."""
        (start,) = batch.column("start").to_pylist()
        rows = datasets.load_from_disk(directory)
        return _encoded(rows.select(range(start, min(start + ROWS_PER_BLOCK, len(rows)))), columns, start)

    blocks = installed.from_items(starts, len(starts))
    return blocks.map_batches(read, batch_format="pyarrow", batch_size=1, num_cpus=READING_CPUS)


def _encoded(loaded: Any, columns: dict[str, str], start: int) -> pa.Table:
    """The rows of a `datasets.Dataset`, of which the first is number `start`, as encoded bytes."""
    import datasets

    images = loaded.cast_column(columns["image"], datasets.Image(decode=False))[columns["image"]]
    paths = [(cell and cell["path"]) or f"row-{number}" for number, cell in enumerate(images, start)]
    batch = {"path": pa.array(paths)}
    for name, column in columns.items():
        structs = loaded.cast_column(column, datasets.Image(decode=False))[column]
        batch[name] = pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return _read(pa.table(batch))


def _masks_below(folder: str) -> dict[str, str]:
    """The annotations below a folder, by their names without suffix."""
    found = find_images(folder)
    return {row["name"]: row["path"] for row in found.take(found.rows)}


def _read(batch: pa.Table) -> pa.Table:
    """`path`, and bytes in place of paths."""
    columns = {"path": batch.column("path")}
    for name in ("image", "annotation"):
        if name in batch.column_names:
            pairs = zip(batch.column(name).to_pylist(), batch.column("path").to_pylist(), strict=True)
            columns[name] = pa.array([_bytes_or_null(cell, path) for cell, path in pairs], pa.binary())
    return pa.table(columns)


def _bytes_or_null(cell: Any, path: str) -> bytes | None:
    try:
        return encoded_bytes(cell)
    except ImageError as error:
        logger.warning("%s: %s", path, error)
        return None
