"""Images, and their annotations, as Ray datasets of encoded bytes.

Rows have `path`, `image` (the bytes of the file) and, with annotations, `annotation` (the bytes of its file, with class
ids as they are stored). Nothing is decoded here, so blocks are no larger than the files. Datasets are lazy: files are
read when the dataset is consumed. A file that cannot be read gives null, and a warning in the log says why. The
predictor's `on_error` decides whether a null ends the job.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray

from ray_segformer.air import installed
from ray_segformer.guesses import say
from ray_segformer.images import ImageError, encoded_bytes, public_uri
from ray_segformer.inputs.blocks import ROWS_PER_BLOCK, small_blocks
from ray_segformer.inputs.find import find_images, find_parquet
from ray_segformer.inputs.image_input import InputError
from ray_segformer.inputs.location import joined
from ray_segformer.inputs.parquet import READING_CPUS

logger = logging.getLogger(__name__)


def read_images(source: str, *, annotations: str | None = None, exclude: Sequence[str] = ()) -> ray.data.Dataset:
    """Read the images of a folder, a glob, a list file or parquet, as `ray-segformer predict` does.

    Args:
        source: where the images are: a local path, or a URI of pyarrow's file systems.
        annotations: a local folder, or a URI, with a PNG of class ids for each image. It has the image's name, in the
            same tree of folders: `annotations/a/b.png` for `images/a/b.jpg`. Default: no annotations.
        exclude: globs of images to leave out, compared with paths relative to the input and with names of files, such
            as `["*_mask.png"]`. Default: none.

    Returns:
        A lazy dataset with `path`, `image` and, with `annotations`, `annotation`. Its order is the order of the paths,
        if Ray Data is set to preserve it.

    Warns:
        SegformerWarning: files are not looked at, or look like masks; see `find_images`.

    Raises:
        InputError: there are no images, or an image has no annotation; the message names the image. Or a glob of
            `exclude` matches nothing.
    """
    found = find_images(source, exclude=exclude)
    say(found.guesses)
    if annotations is None:
        return found.dataset().map_batches(_read_files, batch_format="pyarrow", batch_size=ROWS_PER_BLOCK)
    rows = found.take(found.rows)
    annotation_paths = _annotations_below(annotations)
    for row in rows:
        if row["name"] not in annotation_paths:
            raise InputError(
                f"{row['path']} has no annotation: expected {public_uri(annotations)}/{row['name']}.png, "
                "a PNG of class ids"
            )
        row["annotation"] = annotation_paths[row["name"]]
    dataset = small_blocks(pa.Table.from_pylist(rows))
    return dataset.map_batches(_read_files, batch_format="pyarrow", batch_size=ROWS_PER_BLOCK)


def read_ade20k(
    root: str | os.PathLike[str], split: str = "validation", *, exclude: Sequence[str] = ()
) -> ray.data.Dataset:
    """Read a split of ADE20K in the layout of MIT's Scene Parsing Benchmark (`ADEChallengeData2016`).

    Args:
        root: a folder, or a URI, with `images/{training,validation}` and `annotations/{training,validation}`. A dataset
            without splits has its files directly in `images` and `annotations`.
        split: "training", "validation", or "" for a dataset without splits.
        exclude: as for `read_images`.

    Returns:
        As `read_images`. The class ids of annotations are those of the files: 0 is "other", and classes count from 1
        (use `reduce_labels=True`).

    Raises:
        InputError: there is no such split, or an image has no annotation; the message names the image.
    """
    images, annotations = (joined(os.fspath(root), kind, split) for kind in ("images", "annotations"))
    return read_images(images, annotations=annotations, exclude=exclude)


def read_parquet(
    source: str,
    *,
    image_column: str = "image",
    annotation_column: str = "annotation",
    exclude: Sequence[str] = (),
) -> ray.data.Dataset:
    """Read annotated images from parquet, such as the files of `scene_parse_150` on the Hugging Face Hub.

    Args:
        source: a parquet file or a folder of them: a local path or a URI.
        image_column, annotation_column: columns of encoded bytes, of paths, or of `{"bytes", "path"}`. Relative paths
            are relative to the parquet file.
        exclude: as for `read_images`: globs of parquet files.

    Returns:
        As `read_images`. `path` is the path of the image's file. For an image that is in the table, it comes from the
        column of that name, else from the struct, else from a hash of the image's bytes.

    Warns:
        SegformerWarning: files are not looked at.

    Raises:
        InputError: there is no parquet file, or it has no such column, or the column is of another type.
    """
    found = find_parquet(source, image_column, annotation_column, exclude=exclude)
    say(found.guesses)
    # With whole blocks as batches and with the same CPUs, Ray Data fuses this stage with the reading. A task still
    # handles a single row group.
    return found.dataset().map_batches(_read_files, batch_format="pyarrow", batch_size=None, num_cpus=READING_CPUS)


def from_huggingface(
    dataset: Any, *, image_column: str = "image", annotation_column: str | None = "annotation"
) -> ray.data.Dataset:
    """Read a Hugging Face `datasets.Dataset`, or the directory that its `save_to_disk` wrote.

    Args:
        dataset: the dataset, whose bytes are put in Ray's object store at once; or the directory, which must be there
            on every node, and which tasks read lazily.
        image_column, annotation_column: columns of the type `datasets.Image`. `annotation_column=None` reads no
            annotations.

    Returns:
        As `read_images`. `path` is "row-<number>" for a row without a path.

    Raises:
        InputError: the dataset has no such column, or it has several splits.
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
        """Read the block of rows that begins at row `start`."""
        (start,) = batch.column("start").to_pylist()
        rows = datasets.load_from_disk(directory)
        return _encoded(rows.select(range(start, min(start + ROWS_PER_BLOCK, len(rows)))), columns, start)

    blocks = installed.from_items(starts, len(starts))
    return blocks.map_batches(read, batch_format="pyarrow", batch_size=1, num_cpus=READING_CPUS)


def _encoded(loaded: Any, columns: dict[str, str], start: int) -> pa.Table:
    """Return the rows of a `datasets.Dataset` as encoded bytes; the first is row number `start`."""
    import datasets

    images = loaded.cast_column(columns["image"], datasets.Image(decode=False))[columns["image"]]
    paths = [(cell and cell["path"]) or f"row-{number}" for number, cell in enumerate(images, start)]
    batch = {"path": pa.array(paths)}
    for name, column in columns.items():
        structs = loaded.cast_column(column, datasets.Image(decode=False))[column]
        batch[name] = pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return _read_files(pa.table(batch))


def _annotations_below(folder: str) -> dict[str, str]:
    """Return the paths of the annotations below a folder, by their names without suffix."""
    found = find_images(folder)
    return {row["name"]: row["image"] for row in found.take(found.rows)}


def _read_files(batch: pa.Table) -> pa.Table:
    """Return `path`, and `image` and `annotation` with the bytes of their files in place of paths."""
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
