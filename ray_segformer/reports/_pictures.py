"""The pictures of a report: which rows are shown in which group, their masks, and their images, read again."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.images import (
    MAX_PIXELS,
    Area,
    Bands,
    FrameTime,
    ImageError,
    ScenePart,
    frames_in,
    public_uri,
    to_rgb,
)
from ray_segformer.inputs import InputError, Location
from ray_segformer.outputs import MaskOutput, OutputError
from ray_segformer.reports._layers import Layers, layers
from ray_segformer.reports._survey import Place, Survey
from ray_segformer.viz import class_palette

RANDOM, LEAST_CONFIDENT = "random", "least"  # groups; those of the classes are their ids

_LEAST_CONFIDENT = 12  # images
_MOST_PIXELS = 2**30  # whose confidence is looked at
_WIDTH = 640  # pixels of a picture in the page, at most
_TRIES = 3  # failures of remote images in a row before no more are read: each may be a timeout of minutes


@dataclass(frozen=True)
class Chosen:
    """The rows that are shown.

    Attributes:
        groups: for each row, its ranks, from 0, by the names of its groups.
        confidence: the mean confidence in [0, 1] of those that were looked at, over the pixels that have data.
    """

    groups: dict[Place, dict[str, int]]
    confidence: dict[Place, float]


@dataclass(frozen=True)
class Picture:
    """A row, to be shown.

    Attributes:
        path: that of its image; of a part of a file, with its place there.
        groups: its ranks, from 0, by the names of its groups.
        areas: the share of its pixels in [0, 1] by class id, the largest first.
        confidence: the mean confidence of its pixels in [0, 1]; None if it was not looked at.
        layers: the mask, and the image if it could be read; None if there is not even a mask.
        problem: why there is no mask or no image; "" if there are both.
    """

    path: str
    groups: dict[str, int]
    areas: dict[int, float]
    confidence: float | None
    layers: Layers | None
    problem: str


def choose(output: MaskOutput, survey: Survey) -> Chosen:
    """Return which rows are shown: a random sample, the least confident ones, and the best of each class."""
    groups: dict[Place, dict[str, int]] = defaultdict(dict)
    confidence = _confidence_of(output, survey.looked_at()) if output.options.get("confidence") else {}
    least = sorted(confidence, key=confidence.__getitem__)[:_LEAST_CONFIDENT]
    best = {str(class_id): places for class_id, places in survey.best().items() if class_id in output.id2label}
    for name, places in {RANDOM: survey.random(), LEAST_CONFIDENT: least, **best}.items():
        for rank, place in enumerate(places):
            groups[place][name] = rank
    return Chosen(dict(groups), confidence)


def pictures(output: MaskOutput, chosen: Chosen, source: Location | None) -> Iterator[Picture]:
    """Yield the rows that are shown, in the order of the output. One image and its mask are in memory at a time.

    Args:
        output: the output.
        chosen: the rows.
        source: the input, whose options are needed to read the images; None if there are none.
    """
    palette = class_palette(output.id2label)
    photos = _Photos(source, output.options)
    for place, row in _rows(output, chosen.groups):
        part = "".join(f", {name} {row[name]}" for name in output.place_columns(place.shard).names)
        shown, problem = None, ""
        try:
            mask = output.mask(row)
            if mask is None:
                raise OutputError("there is no mask")
            try:
                image = photos.read(row, mask.shape)
            except ImageError as error:
                image, problem = None, str(error)
            shown = layers(row["path"], image, mask, palette, output.id2label, _WIDTH)
        except (ImageError, OutputError, ValueError) as error:
            problem = f"no mask: {error}"
        areas = zip(row["class_ids"] or (), row["class_pixels"] or (), strict=True)
        yield Picture(
            row["path"] + part,
            chosen.groups[place],
            {class_id: pixels / (row["height"] * row["width"]) for class_id, pixels in areas},
            chosen.confidence.get(place),
            shown,
            problem,
        )


class _Photos:
    """Reads images by the paths of an output. These have no options and passwords."""

    def __init__(self, source: Location | None, options: Mapping[str, Any]) -> None:
        self._source, self._max_pixels = source, options.get("max_pixels", MAX_PIXELS)
        self._bands = Bands.of(options["bands"]) if "bands" in options else None
        self._not_reached = 0  # remote images in a row
        self._video = ""  # the last one, and those of its frames that are to come
        self._frames: Iterator[FrameTime] = iter(())

    def read(self, row: dict[str, Any], size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return the image of a row, or its part of a scene, uint8 `(height, width, 3)`.

        Raises:
            ImageError: it cannot be read, or has not the size of its mask.
        """
        path = row["path"]
        if "://" not in path and not os.path.isabs(path):
            raise ImageError("cannot read the image again: the input had its bytes, and no path to them")
        cell = public_uri(path)
        if self._source is not None:
            try:
                cell = self._source.named_in(cell).cell
            except InputError as error:
                raise ImageError(f"cannot read the image again: {error}") from error
        image = self._read(cell, self._part(row, cell, size))
        if image.shape[:2] != size:
            raise ImageError(
                f"wrong shape: what is at this path now has {image.shape[1]} x {image.shape[0]} pixels, "
                f"but its mask {size[1]} x {size[0]}"
            )
        return image

    def _part(self, row: dict[str, Any], cell: str, size: tuple[int, ...]) -> Any:
        """Return the cell of what a row shows of a file: a frame of a video, a part of a scene, or all of it."""
        if "seconds" in row:
            return {"path": cell, "seconds": row["seconds"], "start": self._start(cell, row["seconds"]), "error": None}
        if self._bands is None:
            return cell
        area = Area(row["row"], row["column"], size[0], size[1])
        return ScenePart(cell, self._bands, area, area).as_cell()

    def _start(self, path: str, seconds: float) -> float:
        """Return from which time on a frame of a video can be decoded. Rows are mostly in the order of frames."""
        problem = f"cannot read the image again: the video has no frame at {seconds:.3f} seconds now"
        for is_new in (self._video != path, True):
            if is_new:
                self._video, self._frames = path, frames_in(path)
            for frame in self._frames:
                problem = frame.error or problem
                if frame.seconds == seconds and frame.start is not None:
                    return frame.start
        raise ImageError(problem)

    def _read(self, path: str, cell: Any) -> npt.NDArray[np.uint8]:
        if "://" not in path or path.startswith("file://"):
            return to_rgb(cell, self._max_pixels)
        if self._not_reached == _TRIES:
            raise ImageError("cannot read the image again: not tried, because three others in a row were not reached")
        try:
            image = to_rgb(cell, self._max_pixels)
        except ImageError as error:
            is_reached = not isinstance(error.__cause__, OSError) or isinstance(error.__cause__, FileNotFoundError)
            self._not_reached = 0 if is_reached else self._not_reached + 1
            raise
        self._not_reached = 0
        return image


def _confidence_of(output: MaskOutput, places: list[Place]) -> dict[Place, float]:
    """Return the mean confidence of rows, over pixels with data. If images are large, fewer are read."""
    means, pixels = dict[Place, float](), 0
    for place, row in _rows(output, places):
        try:
            levels = output.confidence(row)
        except (ImageError, OutputError):  # the same is said of its mask, if it is shown
            continue
        with_data = sum(row["class_pixels"] or ())  # without those of a scene that have no data, whose confidence is 0
        if levels is not None and with_data:
            means[place] = float(levels.sum()) / 255 / with_data
            pixels += levels.size
        if pixels > _MOST_PIXELS:
            break
    return means


def _rows(output: MaskOutput, places: Iterable[Place]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield places in the order of the output, and the rows there."""
    by_shard: dict[str, list[int]] = defaultdict(list)
    for place in sorted(places):
        by_shard[place.shard].append(place.row)
    for shard, numbers in by_shard.items():
        for number, row in zip(numbers, output.rows_at(shard, numbers), strict=True):
            yield Place(shard, number), row
