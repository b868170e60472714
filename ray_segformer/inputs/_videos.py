"""Frames of videos, of which the driver knows the times, and tasks decode the pictures."""

from __future__ import annotations

import itertools
import posixpath
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from ray_segformer.images import FRAME_CELL, NO_PYAV, VIDEO_SUFFIXES, frames_in
from ray_segformer.inputs._image_input import ImageInput, InputError
from ray_segformer.inputs._location import FileName
from ray_segformer.inputs._output_names import key_of_part, name_of_part, unique_names
from ray_segformer.inputs._rounds import LATER_ROUNDS, PART, Numbered, images_of_rows
from ray_segformer.inputs._selection import Selection

_COLUMNS = pa.schema([("frame", pa.int64()), ("seconds", pa.float64())])
_ROWS = pa.schema(
    [("path", pa.string()), ("image", FRAME_CELL), ("name", pa.string()), ("key", pa.string()), *_COLUMNS]
)


def is_video(path: str) -> bool:
    """Return whether a file's suffix is that of a video."""
    return posixpath.splitext(path.lower())[1] in VIDEO_SUFFIXES


def rounds_of_videos(
    files: Iterator[FileName],
    folder: str,
    shown: str,
    selection: Selection,
    first: int | None,
    every: int,
    *,
    may_repeat: bool,
) -> Iterator[ImageInput]:
    """Yield the frames of videos; see `find_rounds`.

    The rows have the columns `frame`, the frame's number in the order in which they are shown, from 0, and `seconds`,
    when it is shown, as the file says it. A video that cannot be read, or not to its end, has a last row that is an
    error; its `seconds` are null.

    Args:
        files, folder, shown, selection, first, may_repeat: as for `rounds_of_files`.
        every: take each frame whose number is a multiple of it.

    Raises:
        InputError: a file is no video, or PyAV is not installed, or a glob of `exclude` matched nothing.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise InputError(f"{shown}: {NO_PYAV} ({error})") from error
    videos = [*files]
    selection.check()
    for video in videos:
        if not is_video(video.plain):
            raise InputError(
                f"{shown}: there are videos, and other files ({video.path}); name them in runs of their own"
            )
    paths = [video.path for video in videos]
    keys = Numbered().keys(paths) if may_repeat else paths
    names = unique_names([video.plain for video in videos], folder, keys)
    frames = itertools.chain.from_iterable(map(_frames_of, videos, keys, names, itertools.repeat(every)))
    following, count, most = next(frames, None), 0, first or sys.maxsize
    while following is not None:
        frames, parts, missing = itertools.chain([following], frames), list[pa.Table](), most
        while missing and (some := [*itertools.islice(frames, min(PART, missing))]):
            parts.append(pa.Table.from_pylist(some, _ROWS))
            missing -= len(some)
        following, most = next(frames, None), LATER_ROUNDS
        rows = pa.concat_tables(parts)
        rows = rows.add_column(1, "index", pa.array(np.arange(count, count + len(rows))))
        count += len(rows)
        yield images_of_rows(
            rows,
            videos[0].cell,
            selection.guesses(),
            is_last=following is None,
            columns=_COLUMNS,
            begins=_begins,
        )


def _frames_of(video: FileName, key: str, name: str, every: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a video."""
    for number, frame in enumerate(frames_in(video.cell)):
        if number % every == 0 or frame.error is not None:
            yield {
                "path": video.path,
                "image": {"path": video.cell, **frame._asdict()},
                "name": name_of_part(name, [number]),
                "key": key_of_part(key, {"frame": number}),
                "frame": number,
                "seconds": frame.seconds,
            }


def _begins(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are decoded from another key frame than the row before: a task best begins there."""
    starts = pa.compute.struct_field(rows.column("image"), "start")
    changes = [
        pa.compute.fill_null(pa.compute.not_equal(column[1:], column[:-1]), True)
        for column in (starts, rows.column("path"))
    ]
    return np.append(True, pa.compute.or_(*changes).to_numpy())[: len(rows)]
