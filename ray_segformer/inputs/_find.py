"""Find the images of an input: a folder, a glob, a list file, an image, a video or parquet, local or remote."""

from __future__ import annotations

import functools
import glob
import itertools
import posixpath
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.fs

from ray_segformer.images import SUFFIXES
from ray_segformer.inputs._image_input import ImageInput, InputError
from ray_segformer.inputs._listing import (
    files_below,
    files_in_list,
    files_matching,
    files_of_paths,
    fixed_part,
    kind_of,
    shared_folder,
)
from ray_segformer.inputs._location import FileName, Location, parent
from ray_segformer.inputs._parquet import images_in_parquet
from ray_segformer.inputs._rounds import FIRST_ROUND, rounds_of_files
from ray_segformer.inputs._selection import Selection
from ray_segformer.inputs._splits import choose_split, split_of_parquet
from ray_segformer.inputs._videos import is_video, rounds_of_videos

_LIST_SUFFIXES = (".txt", ".lst", ".list")


def find_images(source: str | Sequence[str], *, exclude: Sequence[str] = (), every: int | None = None) -> ImageInput:
    """Find the images of an input, without reading them and without Ray.

    Args:
        source: a local path, or a URI of pyarrow's file systems, of one of these:

            * a folder. It is searched recursively, and through symbolic links, for files with an image's suffix.
              Hidden files and folders, such as `.name`, `Thumbs.db` and `__MACOSX`, are left out.
            * a glob. It does not match hidden files, either.
            * a list file: a text file with a path on each line. Relative paths are relative to its folder.
            * an image.
            * a video, whose frames are the images; see `rounds_of_videos`. Or one of the above with videos alone. In a
              folder that has images, videos are not looked at.
            * parquet, a file or a folder of files, with an image column of encoded bytes, of paths, or of
              `{"bytes", "path"}`. Relative paths are relative to the parquet file.

            Or several paths of files, as the lines of a list file in the current folder.
        exclude: globs of files to leave out, compared with paths relative to the input (of a list, to the deepest
            folder that all its files are below) and with names of files. Default: none.
        every: of videos, only the frames 0, N, 2 N and so on. Default: all.

    Returns:
        The images. Their `guesses` have the codes "hidden-files", "other-files", "looks-like-masks" and "image-column".

    Raises:
        InputError: nothing is there, or it has no images, or a folder cannot be read, or a glob of `exclude` matches
            nothing; or `every` is given, and these are no videos.
    """
    if isinstance(source, str):
        rounds = find_rounds(source, exclude=exclude, every=every, first=None)
    else:
        named = files_of_paths(source)
        rounds = _rounds_of_list(
            named, f"a list of {len(source)} paths", exclude, None, distinct_names=False, every=every
        )
    (images,) = rounds
    return images


def find_rounds(
    source: str,
    *,
    exclude: Sequence[str] = (),
    every: int | None = None,
    first: int | None = FIRST_ROUND,
    distinct_names: bool = False,
    output: str | None = None,
) -> Iterator[ImageInput]:
    """Find the images of an input, some at a time, so that the first of millions can be read at once.

    Args:
        source, exclude, every: as for `find_images`. For a list file, paths are compared relative to the deepest folder
            that contains the files of the first round.
        first: the number of images in the first round. Later rounds have more. None: all are in one round.
            Default: 50,000.
        distinct_names: whether names in later rounds are to differ from all before. Default: False.
        output: the job's own output. If it is in the folder, or where a glob looks, its files are left out: they are
            masks of an earlier run. Default: none.

    Yields:
        The images of each round. `index` goes on from round to round. `guesses` are about what was listed so far; only
        the first round is searched for masks. Parquet is one round: its files say what is in them. Of videos, all files
        are listed at first, and frames in rounds.

    Raises:
        InputError: as for `find_images`. For a glob of `exclude` that matches nothing, only when all files are listed.
    """
    if every is not None and every < 1:
        raise ValueError(f"every (--every) is a whole number of at least 1, not {every}")
    location = Location(source)
    path, shown = location.path, location.shown
    kind = kind_of(location.file_system, path)
    suffix = posixpath.splitext(path.lower())[1]
    rounds = partial(_rounds_of_files, shown=shown, first=first, distinct_names=distinct_names, every=every)
    if kind == pa.fs.FileType.NotFound and glob.has_magic(path):
        folder = fixed_part(path)
        own = None if output is None else location.at(folder).path_of(output)
        selection = Selection(folder, exclude, shown, hides=False, output=own)
        files = (location.file(file) for file in files_matching(location, folder, output) if selection.takes(file))
        yield from rounds(files, folder, selection=selection, may_repeat=True)
    elif kind == pa.fs.FileType.NotFound:
        raise InputError(f"{shown}: no such file or folder")
    elif kind == pa.fs.FileType.Unknown:
        raise InputError(f"{shown} is a pipe or a device; expected a file or a folder")
    elif kind == pa.fs.FileType.Directory:
        own = None if output is None else location.path_of(output)
        selection = Selection(path, exclude, shown, output=own)
        found, parquet = _files_of_folder(location, selection, output)
        if found is not None:
            yield from rounds(found, path, selection=selection, may_repeat=False)
        else:
            selection.check()
            _refuse_every(every, shown)
            if not parquet and selection.excluded:
                raise InputError(f"{shown}: neither images nor parquet there{selection.excluded}")
            yield images_in_parquet(location, parquet, guesses=selection.guesses())
    elif suffix in _LIST_SUFFIXES:
        named = files_in_list(location)
        yield from _rounds_of_list(named, shown, exclude, first, distinct_names=distinct_names, every=every)
    else:
        folder = posixpath.dirname(path)
        selection = Selection(folder, exclude, shown, hides=False)
        paths = [path] if selection.takes(path) else []
        selection.check()
        if suffix == ".parquet":
            _refuse_every(every, shown)
            yield images_in_parquet(location, paths)
        elif suffix in SUFFIXES or is_video(path):
            yield from rounds(map(location.file, paths), folder, selection=selection, may_repeat=False)
        else:
            raise InputError(
                f"{shown}: expected an image, a video, .parquet, or a list of paths ({', '.join(_LIST_SUFFIXES)}); "
                f"the suffix {suffix!r} is none of them"
            )


def first_read_from(folder: str, source: str) -> str | None:
    """Return the first path that a folder and an input share: the input's, or that of a file that a list file names.

    Args:
        folder, source: local paths or URIs.

    Raises:
        InputError: pyarrow does not know one of the URIs, or a list file is not UTF-8.
    """
    within, location = Location(folder), Location(source)
    if within.path_of(source) is not None:
        return location.shown
    if not location.path.lower().endswith(_LIST_SUFFIXES):
        return None
    if kind_of(location.file_system, location.path) != pa.fs.FileType.File:
        return None
    is_within = functools.cache(lambda uri: within.path_of(uri) is not None)  # millions of files are in few folders
    return next((file.path for file in files_in_list(location) if is_within(parent(file.cell))), None)


def _rounds_of_list(
    named: Iterator[FileName],
    shown: str,
    exclude: Sequence[str],
    first: int | None,
    **options: Any,
) -> Iterator[ImageInput]:
    """Yield the images in files that a list names. Their names are relative to the folder that they share."""
    beginning = [*itertools.islice(named, first)]
    folder = shared_folder([file.plain for file in beginning])
    selection = Selection(folder, exclude, shown, hides=False)
    files = (file for file in itertools.chain(beginning, named) if selection.takes(file.plain))
    return _rounds_of_files(files, folder, shown=shown, selection=selection, first=first, may_repeat=True, **options)


def _rounds_of_files(
    files: Iterator[FileName],
    folder: str,
    *,
    shown: str,
    selection: Selection,
    first: int | None,
    distinct_names: bool,
    every: int | None,
    may_repeat: bool,
) -> Iterator[ImageInput]:
    """Yield the images in files, or the frames if the first one is a video."""
    beginning = [*itertools.islice(files, 1)]
    files = itertools.chain(beginning, files)
    if beginning and is_video(beginning[0].plain):
        yield from rounds_of_videos(files, folder, shown, selection, first, every or 1, may_repeat=may_repeat)
    else:
        _refuse_every(every, shown)
        yield from rounds_of_files(files, folder, shown, selection, first, distinct_names, may_repeat=may_repeat)


def _refuse_every(every: int | None, shown: str) -> None:
    if every is not None:
        raise InputError(f"{shown}: every (--every) is for videos, and these are images; leave it out")


def _files_of_folder(
    location: Location, selection: Selection, output: str | None
) -> tuple[Iterator[FileName] | None, list[str]]:
    """Return the images of a folder, or its videos if it has neither images nor parquet; and its parquet files.

    The first are None if there are none. The images are listed while they are taken.
    """
    parquet: list[str] = []
    videos: list[str] = []

    def images() -> Iterator[FileName]:
        has_images = False
        for file in files_below(location, output):
            if not selection.takes(file):
                continue
            suffix = posixpath.splitext(file.lower())[1]
            if suffix in SUFFIXES:
                if not has_images:
                    has_images = True
                    for other in (*parquet, *videos):
                        selection.pass_over(other)
                yield location.file(file)
            elif suffix == ".parquet" and not has_images:
                parquet.append(file)
            elif is_video(file) and not has_images:
                videos.append(file)
            else:
                selection.pass_over(file)

    files = images()
    found = next(files, None)
    if found is not None:
        return itertools.chain([found], files), parquet
    if videos and not parquet:
        return map(location.file, videos), parquet
    for video in videos:
        selection.pass_over(video)
    return None, parquet


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
    is_file = kind == pa.fs.FileType.File
    selection = Selection("" if is_file else location.path, exclude, location.shown, hides=not is_file)
    found = [file for file in ([location.path] if is_file else files_below(location)) if selection.takes(file)]
    selection.check()
    files = [file for file in found if file.lower().endswith(".parquet")]
    for file in found:
        if not file.lower().endswith(".parquet"):
            selection.pass_over(file)
    if not files:
        raise InputError(
            f"{location.shown}: neither the folders images/ and annotations/ (or masks/, labels/), nor Cityscapes, "
            "PASCAL VOC, a dataset of save_to_disk, nor parquet there"
        )
    if split is not None:
        split = choose_split({split_of_parquet(file) for file in files} - {""}, split, location.shown)
        files = [file for file in files if split_of_parquet(file) == split]
    return images_in_parquet(location, files, image_column, annotation_column, selection.guesses())
