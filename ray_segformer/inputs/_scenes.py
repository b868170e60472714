"""Scenes, of which each row is a part: large ones are divided, so that all workers share them."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ray_segformer._guesses import Guess
from ray_segformer.images import (
    NO_RASTERIO,
    SCENE_CELL,
    SCENE_SUFFIXES,
    Area,
    Bands,
    ImageError,
    ScenePart,
    black_or_white,
    cause_of,
    scene_size,
)
from ray_segformer.inputs._find import find_rounds
from ray_segformer.inputs._image_input import ImageInput, InputError
from ray_segformer.inputs._output_names import digests_of_names, key_of_part, name_of_part, with_digest
from ray_segformer.inputs._rounds import SeenDigests, images_of_rows
from ray_segformer.network import window_starts

_COLUMNS = pa.schema([("row", pa.int32()), ("column", pa.int32())])
_ROWS = pa.schema(
    [("path", pa.string()), ("index", pa.int64()), ("image", SCENE_CELL), ("name", pa.string()), ("key", pa.string())]
)
_SCENES = 1000  # of a round: their heads are read at once
_READERS = 16  # heads that are read at the same time
_SIDE = 2048  # pixels of a part, about
_PIXELS_AT_ONCE = 2**22  # of a batch, about: one part of a large scene
_MOST_BLACK_OR_WHITE = 0.95  # of the values of a scene, if its range fits
_LEAST_PER_OVERLAP = 8  # a part's side is so many times what the windows over its edges add, so little is done twice


def find_scenes(
    source: str,
    bands: Bands,
    windows: tuple[int, int] | None,
    *,
    on_error: Literal["raise", "keep"] = "raise",
    exclude: Sequence[str] = (),
    distinct_names: bool = False,
    output: str | None = None,
) -> Iterator[ImageInput]:
    """Find the scenes of an input, some at a time, and divide large ones into parts.

    The windows over a part stand where they would stand over the whole scene, and those over its edges are part of it.
    So the classes of a part are those of the whole scene.

    Args:
        source, exclude, distinct_names, output: as for `find_rounds`. All files are GeoTIFF, or other TIFF.
        bands: what is read of each scene.
        windows: the side of sliding windows, and the pixels between them. None: scenes are not divided.
        on_error: "keep" goes on where the bands or the range do not fit the first scene.

    Yields:
        The parts of the scenes of each round. They have the columns `row` and `column`, of their upper left corner.
        `image` is the cell of a `ScenePart`. A file that cannot be read is one part, whose task fails again. A
        warning says if the range makes the first scene black and white.

    Raises:
        InputError: as for `find_rounds`; or a file is no TIFF file, or rasterio is not installed.
        ImageError: the first scene has no such bands, or needs a range, and `on_error` is "raise".
    """
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise InputError(NO_RASTERIO) from error
    count, guesses, names_before = 0, list[Guess](), SeenDigests()
    for files in find_rounds(source, exclude=exclude, first=_SCENES, distinct_names=distinct_names, output=output):
        rows = files.take(files.rows)
        _check_suffixes(rows)
        if not count:
            guesses = _guess_of_range(rows[0], bands, on_error)
        for first in range(0, len(rows), _SCENES):
            some = rows[first : first + _SCENES]
            with ThreadPoolExecutor(_READERS) as pool:
                sizes = list(pool.map(_size_of, (row["image"] for row in some)))
            parts = [part for row, size in zip(some, sizes, strict=True) for part in _parts(row, size, bands, windows)]
            parts = [{**part, "index": index} for index, part in enumerate(parts, count)]
            if distinct_names:
                digests = digests_of_names(part["name"] for part in parts)
                for place in np.flatnonzero(names_before.add(digests)).tolist():
                    parts[place]["name"] = with_digest(parts[place]["name"], parts[place]["key"])
            count += len(parts)
            largest = max(part["image"]["area"][2] * part["image"]["area"][3] for part in parts)
            yield images_of_rows(
                pa.Table.from_pylist(parts, pa.schema([*_ROWS, *_COLUMNS])),
                files.file,
                [*files.guesses, *guesses],
                is_last=files.is_last and first + _SCENES >= len(rows),
                rows_at_once=max(1, _PIXELS_AT_ONCE // max(1, largest)),
                columns=_COLUMNS,
            )


def divided(size: tuple[int, int], windows: tuple[int, int]) -> Iterator[tuple[Area, Area]]:
    """Yield the parts of a scene: what the network sees, and what is kept of it.

    Args:
        size: height and width of the scene.
        windows: as for `find_scenes`.
    """
    for (rows_seen, rows), (columns_seen, columns) in itertools.product(*(_divided(side, *windows) for side in size)):
        seen = Area(rows_seen.start, columns_seen.start, len(rows_seen), len(columns_seen))
        yield seen, Area(rows.start, columns.start, len(rows), len(columns))


def _divided(length: int, window: int, stride: int) -> list[tuple[range, range]]:
    """Return the parts along a side: the pixels of all windows over a part, and those of the part itself."""
    steps = -(-max(_SIDE, _LEAST_PER_OVERLAP * (window - stride)) // stride)
    last = max(length - window, 0)  # where the last window starts
    edges = [*range(0, last + 1, steps * stride), length]
    if len(edges) > 2 and edges[-1] - edges[-2] < steps * stride // 2:
        del edges[-2]  # a narrow rest
    starts = window_starts(length, window, stride)
    parts = []
    for first, end in itertools.pairwise(edges):
        over = [start for start in starts if start < end and start + window > first]
        parts.append((range(over[0], min(over[-1] + window, length)), range(first, end)))
    return parts


def _guess_of_range(row: dict[str, Any], bands: Bands, on_error: str) -> list[Guess]:
    """Return a warning if the range does not fit a scene; none if the file is unreadable, because its row will fail."""
    try:
        share, low, high = black_or_white(row["image"], bands)
    except ImageError as error:
        if on_error == "raise" and cause_of(str(error)) == "wrong pixels":  # before an earlier output is deleted
            raise ImageError(f'{row["path"]}: {error}. Pass on_error="keep" to keep such rows.') from error
        return []
    if share < _MOST_BLACK_OR_WHITE:
        return []
    return [
        Guess(
            "range-does-not-fit",
            f"{row['path']}: --range {bands.low:g} {bands.high:g} makes {share:.0%} of the values black or white; the "
            f"values of the scene are from {low:g} to {high:g}",
        )
    ]


def _size_of(cell: str) -> tuple[int, int] | ImageError:
    try:
        return scene_size(cell)
    except ImageError as error:
        return error


def _parts(
    row: dict[str, Any], size: tuple[int, int] | ImageError, bands: Bands, windows: tuple[int, int] | None
) -> list[dict[str, Any]]:
    """Return the rows of a scene, without their `index`."""
    height, width = (0, 0) if isinstance(size, ImageError) else size
    whole = Area(0, 0, height, width)
    areas = [(whole, whole)] if windows is None or not height else list(divided((height, width), windows))
    parts = []
    for area, core in areas:
        place = {"row": core.row, "column": core.column}
        parts.append(
            {
                "path": row["path"],
                "image": ScenePart(row["image"], bands, area, core).as_cell(),
                "name": row["name"] if len(areas) == 1 else name_of_part(row["name"], place.values()),
                "key": row["key"] if len(areas) == 1 else key_of_part(row["key"], place),
                **place,
            }
        )
    return parts


def _check_suffixes(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if not isinstance(row["image"], str) or posixpath.splitext(row["path"].lower())[1] not in SCENE_SUFFIXES:
            raise InputError(
                f"{row['path']}: bands (--bands, --range) are read of TIFF files ({', '.join(sorted(SCENE_SUFFIXES))}) "
                "only; leave others out with --exclude"
            )
