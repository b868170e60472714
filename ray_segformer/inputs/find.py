"""Find the images of an input: a folder, a glob, a list file, an image or parquet, local or remote."""

from __future__ import annotations

import glob
import posixpath
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs
import ray

from ray_segformer.images import SUFFIXES
from ray_segformer.inputs.blocks import small_blocks
from ray_segformer.inputs.image_input import ImageInput, InputError
from ray_segformer.inputs.listing import (
    file_system_of,
    files_below,
    files_matching,
    fixed_part,
    kind_of,
    paths_in_list,
    shared_folder,
)
from ray_segformer.inputs.parquet import images_in_parquet
from ray_segformer.inputs.paths import readable, unique_names
from ray_segformer.inputs.row_keys import DoneRows
from ray_segformer.inputs.splits import choose_split, split_of_parquet

_LIST_SUFFIXES = (".txt", ".lst", ".list")
_KEYS_PER_BATCH = 2**16


def find_images(source: str) -> ImageInput:
    """Find the images of an input, without reading them and without Ray.

    Args:
        source: a local path, or a URI of pyarrow's file systems, of one of these:

            * a folder. It is searched recursively, and through symbolic links, for files with an image's suffix.
            * a glob.
            * a list file: a text file with a path on each line. Relative paths are relative to its folder.
            * an image.
            * parquet, a file or a folder of files, with an image column of encoded bytes or `{"bytes", "path"}`.

    Raises:
        InputError: nothing is there, or it has no images, or a folder cannot be read.
    """
    file_system, path = file_system_of(source)
    kind = kind_of(file_system, path)
    if kind == pa.fs.FileType.NotFound and glob.has_magic(path):
        folder = fixed_part(path)
        return _images_in_files(files_matching(file_system, path, folder), folder, source, file_system)
    if kind == pa.fs.FileType.NotFound:
        raise InputError(f"{source}: no such file or folder")
    if kind == pa.fs.FileType.Unknown:
        raise InputError(f"{source} is a pipe or a device; expected a file or a folder")
    if kind == pa.fs.FileType.File:
        suffix = posixpath.splitext(path.lower())[1]
        if suffix == ".parquet":
            return images_in_parquet(file_system, [path], source)
        if suffix in _LIST_SUFFIXES:
            paths = paths_in_list(file_system, path)
            return _images_in_files(paths, shared_folder(paths), source, file_system)
        if suffix in SUFFIXES:
            return _images_in_files([path], posixpath.dirname(path), source, file_system)
        raise InputError(
            f"{source}: expected an image, .parquet, or a list of paths ({', '.join(_LIST_SUFFIXES)}); "
            f"the suffix {suffix!r} is none of them"
        )
    files = files_below(file_system, path)
    images = [file for file in files if posixpath.splitext(file.lower())[1] in SUFFIXES]
    if images:
        return _images_in_files(images, path, source, file_system)
    return images_in_parquet(file_system, [file for file in files if file.lower().endswith(".parquet")], source)


def find_parquet(
    source: str, image_column: str = "image", annotation_column: str = "annotation", *, split: str | None = None
) -> ImageInput:
    """Find annotated images in parquet, without reading them and without Ray.

    Args:
        source: a parquet file, or a folder that is searched recursively for them. A local path, or a URI of pyarrow's
            file systems.
        image_column, annotation_column: columns of encoded bytes or of `{"bytes", "path"}`, as Hugging Face writes
            them.
        split: only files of this split; see `split_of_parquet`. Default: None, all files.

    Returns:
        As `find_images`; rows also have `annotation`.

    Raises:
        InputError: there is no parquet file, or none of this split, or it has no such column.
    """
    file_system, path = file_system_of(source)
    kind = kind_of(file_system, path)
    if kind == pa.fs.FileType.NotFound:
        raise InputError(f"{source}: no such file or folder")
    files = [path] if kind == pa.fs.FileType.File else files_below(file_system, path)
    files = [file for file in files if file.lower().endswith(".parquet")]
    if not files:
        raise InputError(
            f"{source}: neither the folders images/ and annotations/ (or masks/, labels/), nor Cityscapes, PASCAL VOC, "
            "a dataset of save_to_disk, nor parquet there"
        )
    if split is not None:
        choose_split({split_of_parquet(file) for file in files} - {""}, split, source)
        files = [file for file in files if split_of_parquet(file) == split]
    return images_in_parquet(file_system, files, source, image_column, annotation_column)


def _images_in_files(paths: list[str], folder: str, source: str, file_system: pa.fs.FileSystem) -> ImageInput:
    """Return the images at paths, whose output names are relative to `folder`."""
    if not paths:
        raise InputError(f"{source}: no images there (looked for {', '.join(sorted(SUFFIXES))})")
    if not isinstance(file_system, pa.fs.LocalFileSystem):
        scheme = source.split("://")[0]
        paths = [path if "://" in path else f"{scheme}://{path}" for path in paths]
    names = pa.array(unique_names(paths, folder))
    paths = [readable(path) for path in paths]
    column = pa.array(paths)
    keys_column = column if len(set(paths)) == len(paths) else pa.array(_unique_keys(paths))
    rows = pa.table({"path": column, "image": column, "name": names, "key": keys_column})

    def keys() -> Iterator[str]:
        """Yield the keys of all rows. There may be millions, so only a batch of them is Python text at a time."""
        for batch in rows.select(["key"]).to_batches(_KEYS_PER_BATCH):
            yield from batch.column(0).to_pylist()

    def dataset(done: DoneRows | None = None) -> ray.data.Dataset:
        """Return the rows that are not done."""
        return small_blocks(rows if done is None else rows.filter(pa.array(~done.among(keys()))))

    return ImageInput(len(rows), dataset, keys, lambda limit: rows.slice(0, limit).to_pylist())


def _unique_keys(paths: list[str]) -> list[str]:
    """Return a key for each path of a list file, which may have duplicates: `a.jpg`, `a.jpg#1`, `a.jpg#2`."""
    seen = Counter[str]()
    keys = []
    for path in paths:
        keys.append(f"{path}#{seen[path]}" if seen[path] else path)
        seen[path] += 1
    return keys
