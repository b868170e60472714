"""Find the images of an input: a folder, a glob, a list file, an image or parquet, local or remote."""

from __future__ import annotations

import glob
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.fs
import ray

from ray_segformer.guesses import Guess
from ray_segformer.images import SUFFIXES
from ray_segformer.inputs.blocks import small_blocks, spread
from ray_segformer.inputs.image_input import ImageInput, InputError
from ray_segformer.inputs.listing import files_below, files_in_list, files_matching, fixed_part, kind_of, shared_folder
from ray_segformer.inputs.location import FileName, Location
from ray_segformer.inputs.mask_names import masks_among
from ray_segformer.inputs.output_names import unique_names
from ray_segformer.inputs.parquet import images_in_parquet
from ray_segformer.inputs.paths import readable
from ray_segformer.inputs.row_keys import DoneRows
from ray_segformer.inputs.selection import below, other_kinds, without_excluded, without_hidden
from ray_segformer.inputs.splits import choose_split, split_of_parquet

_LIST_SUFFIXES = (".txt", ".lst", ".list")
_KEYS_PER_BATCH = 2**16


def find_images(source: str, *, exclude: Sequence[str] = ()) -> ImageInput:
    """Find the images of an input, without reading them and without Ray.

    Args:
        source: a local path, or a URI of pyarrow's file systems, of one of these:

            * a folder. It is searched recursively, and through symbolic links, for files with an image's suffix.
              Hidden files and folders (`.name`, `Thumbs.db`, `desktop.ini`, `__MACOSX`) are left out.
            * a glob. It does not match hidden files, either.
            * a list file: a text file with a path on each line. Relative paths are relative to its folder.
            * an image.
            * parquet, a file or a folder of files, with an image column of encoded bytes, of paths, or of
              `{"bytes", "path"}`. Relative paths are relative to the parquet file.
        exclude: globs of files to leave out, compared with paths relative to the input (of a list, to the deepest
            folder that all its files are below) and with names of files. Default: none.

    Returns:
        The images. Their `guesses` have the codes "hidden-files", "other-files", "looks-like-masks" and "image-column".

    Raises:
        InputError: nothing is there, or it has no images, or a folder cannot be read, or a glob of `exclude` matches
            nothing.
    """
    location = Location(source)
    file_system, path, shown = location.file_system, location.path, location.shown
    kind = kind_of(file_system, path)
    if kind == pa.fs.FileType.NotFound and glob.has_magic(path):
        folder = fixed_part(path)
        paths = without_excluded(files_matching(file_system, path, folder), folder, exclude, shown)
        return _images_in_files([location.file(file) for file in paths], folder, shown)
    if kind == pa.fs.FileType.NotFound:
        raise InputError(f"{shown}: no such file or folder")
    if kind == pa.fs.FileType.Unknown:
        raise InputError(f"{shown} is a pipe or a device; expected a file or a folder")
    if kind == pa.fs.FileType.File:
        suffix = posixpath.splitext(path.lower())[1]
        if suffix in _LIST_SUFFIXES:
            files = files_in_list(location)
            folder = shared_folder([file.plain for file in files])
            kept = set(without_excluded([file.plain for file in files], folder, exclude, shown))
            return _images_in_files([file for file in files if file.plain in kept], folder, shown)
        paths = without_excluded([path], posixpath.dirname(path), exclude, shown)
        if suffix == ".parquet":
            return images_in_parquet(location, paths)
        if suffix in SUFFIXES:
            return _images_in_files([location.file(path) for path in paths], posixpath.dirname(path), shown)
        raise InputError(
            f"{shown}: expected an image, .parquet, or a list of paths ({', '.join(_LIST_SUFFIXES)}); "
            f"the suffix {suffix!r} is none of them"
        )
    files_there, guesses = _files_of_folder(location, exclude)
    images = [file for file in files_there if posixpath.splitext(file.lower())[1] in SUFFIXES]
    looked_at = images or [file for file in files_there if file.lower().endswith(".parquet")]
    guesses += other_kinds(sorted({*files_there} - {*looked_at}), shown)
    if images:
        return _images_in_files([location.file(file) for file in images], path, shown, guesses)
    return images_in_parquet(location, looked_at, guesses=guesses)


def find_parquet(
    source: str,
    image_column: str = "image",
    annotation_column: str = "annotation",
    *,
    split: str | None = None,
    exclude: Sequence[str] = (),
) -> ImageInput:
    """Find annotated images in parquet, without reading them and without Ray.

    Args:
        source: a parquet file, or a folder that is searched recursively for them. A local path, or a URI of pyarrow's
            file systems.
        image_column, annotation_column: columns of encoded bytes, of paths relative to the parquet file, or of
            `{"bytes", "path"}`, as Hugging Face writes them.
        split: only files of this split; see `split_of_parquet`. Default: None, all files.
        exclude: as for `find_images`: globs of parquet files.

    Returns:
        As `find_images`; rows also have `annotation`.

    Raises:
        InputError: there is no parquet file, or none of this split, or it has no such column, or the column is of
            another type, or a glob of `exclude` matches nothing.
    """
    location = Location(source)
    kind = kind_of(location.file_system, location.path)
    if kind == pa.fs.FileType.NotFound:
        raise InputError(f"{location.shown}: no such file or folder")
    if kind == pa.fs.FileType.File:
        files, guesses = without_excluded([location.path], "", exclude, location.shown), list[Guess]()
    else:
        files, guesses = _files_of_folder(location, exclude)
    others = [file for file in files if not file.lower().endswith(".parquet")]
    files = [file for file in files if file.lower().endswith(".parquet")]
    if not files:
        raise InputError(
            f"{location.shown}: neither the folders images/ and annotations/ (or masks/, labels/), nor Cityscapes, "
            "PASCAL VOC, a dataset of save_to_disk, nor parquet there"
        )
    if split is not None:
        choose_split({split_of_parquet(file) for file in files} - {""}, split, location.shown)
        files = [file for file in files if split_of_parquet(file) == split]
    guesses += other_kinds(others, location.shown)
    return images_in_parquet(location, files, image_column, annotation_column, guesses)


def _files_of_folder(location: Location, exclude: Sequence[str]) -> tuple[list[str], list[Guess]]:
    """Return the files of a folder, without those that are excluded or hidden, and what is to be said about these."""
    files = files_below(location.file_system, location.path)
    files = without_excluded(files, location.path, exclude, location.shown)
    return without_hidden(files, location.path, location.shown)


def _images_in_files(files: list[FileName], folder: str, shown: str, guesses: Sequence[Guess] = ()) -> ImageInput:
    """Return the images in files, whose output names are relative to `folder`."""
    if not files:
        raise InputError(f"{shown}: no images there (looked for {', '.join(sorted(SUFFIXES))})")
    paths = [file.path for file in files]
    keys_of_rows = paths if len(set(paths)) == len(paths) else _unique_keys(paths)
    names = unique_names([file.plain for file in files], folder, keys_of_rows)
    column = pa.array(paths)  # there may be millions, so equal columns are one
    cells = column if all(file.cell is file.path for file in files) else pa.array([file.cell for file in files])
    keys_column = column if keys_of_rows is paths else pa.array(keys_of_rows)
    index = np.arange(len(files))
    rows = pa.table({"path": column, "index": index, "image": cells, "name": pa.array(names), "key": keys_column})

    def keys() -> Iterator[str]:
        """Yield the keys of all rows. There may be millions, so only a batch of them is Python text at a time."""
        for batch in rows.select(["key"]).to_batches(_KEYS_PER_BATCH):
            yield from batch.column(0).to_pylist()

    def dataset(
        done: DoneRows | None = None, sample: int | None = None, distinct_names: bool = False
    ) -> ray.data.Dataset:
        """Return the rows that are not done, or a sample. Names always differ."""
        if sample is not None:
            return small_blocks(rows.take(pa.array(spread(len(rows), sample))))
        return small_blocks(rows if done is None else rows.filter(pa.array(~done.among(keys()))))

    said = [*guesses, *masks_among([readable(below(file.plain, folder)) for file in files], shown)]
    return ImageInput(len(rows), dataset, keys, lambda limit: rows.slice(0, limit).to_pylist(), files[0].cell, said)


def _unique_keys(paths: list[str]) -> list[str]:
    """Return a key for each path of a list file, which may have duplicates: `a.jpg`, `a.jpg#1`, `a.jpg#2`."""
    seen = Counter[str]()
    keys = []
    for path in paths:
        keys.append(f"{path}#{seen[path]}" if seen[path] else path)
        seen[path] += 1
    return keys
