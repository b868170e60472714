"""Annotated images in Hugging Face `datasets`: in memory, or in the directory that `save_to_disk` wrote."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray

from ray_segformer.air import installed
from ray_segformer.inputs._annotated import AnnotatedInput, Row, read_files
from ray_segformer.inputs._blocks import ROWS_PER_BLOCK, spread
from ray_segformer.inputs._image_input import InputError
from ray_segformer.inputs._parquet import READING_CPUS
from ray_segformer.inputs._parquet_columns import no_column
from ray_segformer.inputs._splits import choose_split

_OF_IMAGES = ("string", "large_string", "binary", "large_binary")  # types of paths and of encoded images
_ONE, _SPLITS = "dataset_info.json", "dataset_dict.json"  # files that `save_to_disk` writes


def is_saved_dataset(directory: str) -> bool:
    """Return whether `save_to_disk` of a `Dataset` or a `DatasetDict` wrote a directory."""
    return any(os.path.isfile(os.path.join(directory, name)) for name in (_ONE, _SPLITS))


def saved_splits(directory: str) -> list[str]:
    """Return the splits of a `DatasetDict` in a directory; none if there is a `Dataset`."""
    path = os.path.join(directory, _SPLITS)
    if not os.path.isfile(path):
        return []
    with open(path, encoding="utf-8") as file:
        return list(json.load(file)["splits"])


def find_huggingface(
    dataset: Any, split: str | None, image_column: str, annotation_column: str | None
) -> AnnotatedInput:
    """Find what `from_huggingface` reads. None as the split is for a dataset without splits.

    Raises:
        InputError: see `from_huggingface`.
    """
    import datasets

    is_path = isinstance(dataset, (str, os.PathLike))
    directory = os.path.abspath(os.path.expanduser(dataset)) if is_path else None  # workers may be elsewhere
    if directory is not None and not is_saved_dataset(directory):
        raise InputError(f"{directory}: no directory that save_to_disk of a Hugging Face dataset wrote")
    splits = saved_splits(directory) if directory is not None else list(dataset) if isinstance(dataset, dict) else []
    if split is None and splits:
        raise InputError(f"the dataset has the splits {', '.join(splits)}; name one of them with split= (--split)")
    if split is not None:
        split = choose_split(splits, split, directory or "the dataset")
        directory = directory and os.path.join(directory, split)
    try:
        loaded = datasets.load_from_disk(directory) if directory is not None else dataset[split] if split else dataset
        if isinstance(loaded, datasets.IterableDataset):
            raise InputError("the dataset is a stream, which tasks cannot divide; load it without streaming=True")
        count = len(loaded)
    except IndexError:  # which it raises for a dataset without files
        count = 0
    if not count:
        raise InputError(f"{directory or 'the dataset'} has no rows")
    columns = {"image": image_column} | ({"annotation": annotation_column} if annotation_column else {})
    for column in columns.values():
        if column not in loaded.column_names:
            raise InputError(f"the dataset: {no_column(column, loaded.column_names)}")
        feature = loaded.features[column]
        if isinstance(getattr(feature, "feature", None), datasets.Image):
            raise InputError(f"the dataset: the column {column!r} holds lists of images; give each image a row")
        if isinstance(feature, (datasets.Value, datasets.ClassLabel)) and feature.dtype not in _OF_IMAGES:
            raise InputError(f"the dataset: the column {column!r} holds no images, but {feature.dtype}")

    def read(batch: pa.Table) -> pa.Table:
        """Read the block of rows that begins at row `start`, in a task."""
        return read_files(cells_of(batch))

    def cells_of(batch: pa.Table) -> pa.Table:
        (start,) = batch.column("start").to_pylist()
        rows = datasets.load_from_disk(directory)
        return _cells(rows.select(range(start, min(start + ROWS_PER_BLOCK, len(rows)))), columns, start)

    def blocks(read: Callable[[pa.Table], pa.Table], count: int | None) -> ray.data.Dataset:
        starts = [{"start": start} for start in range(0, len(loaded), ROWS_PER_BLOCK)]
        if count is not None:
            starts = [starts[place] for place in spread(len(starts), math.ceil(count / ROWS_PER_BLOCK))]
        numbers = installed.from_items(starts, len(starts))
        return numbers.map_batches(read, batch_format="pyarrow", batch_size=1, num_cpus=READING_CPUS)

    def in_ray() -> ray.data.Dataset:
        return blocks(read, None) if directory is not None else ray.data.from_arrow(_encoded(loaded, columns, 0))

    def cells(count: int | None) -> ray.data.Dataset:
        return blocks(cells_of, count) if directory is not None else in_ray()

    def sample(count: int) -> list[Row]:
        places = spread(len(loaded), count)
        return [row for place in places for row in _encoded(loaded.select([place]), columns, place).to_pylist()]

    return AnnotatedInput(len(loaded), in_ray, sample, cells)


def _encoded(loaded: Any, columns: dict[str, str], start: int) -> pa.Table:
    """Return the rows of a `datasets.Dataset` as encoded bytes; the first is row number `start`."""
    return read_files(_cells(loaded, columns, start))


def _cells(loaded: Any, columns: dict[str, str], start: int) -> pa.Table:
    import datasets

    loaded = loaded.with_format(None)  # a transform or a choice of columns, as for a training, would hide the images
    images = loaded.cast_column(columns["image"], datasets.Image(decode=False))[columns["image"]]
    paths = [(cell and cell["path"]) or f"row-{number}" for number, cell in enumerate(images, start)]
    batch = {"path": pa.array(paths)}
    for name, column in columns.items():
        structs = loaded.cast_column(column, datasets.Image(decode=False))[column]
        batch[name] = pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.table(batch)
