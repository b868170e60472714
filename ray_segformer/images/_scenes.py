"""Scenes of satellites and aircraft: TIFF files of any bands, which are read by parts. Needs the extra `geo`."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.images._encoded import MAX_PIXELS, check_size
from ray_segformer.images._errors import ImageError
from ray_segformer.images._files import local_path
from ray_segformer.images._scene_files import opened_scene
from ray_segformer.images._scene_parts import Area, Bands, ScenePart

_SAMPLED_SIDE = 1024  # pixels of the overview that percentiles are taken from
_SAMPLED_BLOCKS = 64  # of a scene without overviews
_LOOKED_AT_BLOCKS = 8  # the same, to know whether a range fits


def scene_size(path: str) -> tuple[int, int]:
    """Return height and width of a scene. Only the head of the file is read.

    Raises:
        ImageError: the file cannot be read, or is no scene.
    """
    with opened_scene(path) as scene:
        return scene.height, scene.width


def read_scene(part: ScenePart, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return the area of a part as RGB, uint8 `(height, width, 3)`. Pixels without data are black.

    Raises:
        ImageError: the file cannot be read, has no such bands, or its values need a range.
    """
    with opened_scene(part.path) as scene:
        _check_area(scene, part, max_pixels)
        _check_bands(scene, part.bands)
        window = _window(part.area)
        values = scene.read(list(part.bands.numbers), window=window)
        valid = _valid(scene, part.bands, values, window)
        pixels = _scaled(values, _limits(part.path, part.bands), valid)
        if scene.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":  # GDAL leaves the values as they are
            pixels[:, valid] = 255 - pixels[:, valid]
    return np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0))


def has_data(part: ScenePart) -> npt.NDArray[np.bool_] | None:
    """Return which pixels of the core of a part have data, bool `(height, width)`; None if all have.

    A pixel has data if one of the bands has, by the file's nodata value, mask or alpha, and none is NaN.

    Raises:
        ImageError: the file cannot be read.
    """
    with opened_scene(part.path) as scene:
        if _is_complete(scene, part.bands):
            return None
        window = _window(part.core)
        is_float = any(np.dtype(scene.dtypes[number - 1]).kind == "f" for number in part.bands.numbers)
        values = scene.read(list(part.bands.numbers), window=window) if is_float else None
        valid = _valid(scene, part.bands, values, window)
        return None if valid.all() else valid


def black_or_white(path: str, bands: Bands) -> tuple[float, float, float]:
    """Return how much of a scene its range makes black or white, and between which values the scene is.

    Returns:
        The share of values that become 0 or 255, the smallest value, and the largest: of a sample of the scene. The
        share is 0 if there is no range of values, or no data.

    Raises:
        ImageError: as for `read_scene`.
    """
    with opened_scene(path) as scene:
        _check_bands(scene, bands)
        if bands.low is None or bands.high is None or bands.percentile:
            return 0.0, 0.0, 0.0
        values = np.concatenate([values[valid] for values, valid in _samples(scene, bands, _LOOKED_AT_BLOCKS)])
    if not values.size:
        return 0.0, 0.0, 0.0
    tones = (values.astype(np.float64) - bands.low) * (255 / (bands.high - bands.low))
    return float(((tones < 0.5) | (tones > 254.5)).mean()), float(values.min()), float(values.max())


def _check_area(scene: Any, part: ScenePart, max_pixels: int) -> None:
    if not part.area.height:
        raise ImageError(
            "cannot read the file: when the input was listed, it was unreadable, so its size is unknown; start again"
        )
    if (part.area.height, part.area.width) == scene.shape and scene.height * scene.width > max_pixels:
        raise ImageError(
            f"too large: a scene of {scene.width} x {scene.height} pixels, above the limit of {max_pixels}; go over it "
            "in windows alone (--window 512, without --resize, --flip and --scales), which divides it into parts"
        )
    check_size(part.area.width, part.area.height, max_pixels)


def _check_bands(scene: Any, bands: Bands) -> None:
    if max(bands.numbers) > scene.count:
        raise ImageError(f"wrong pixels: a scene of {scene.count} bands has no band {max(bands.numbers)}; see --bands")
    dtypes = {scene.dtypes[number - 1] for number in bands.numbers}
    if any(np.dtype(dtype).kind not in "uif" or np.dtype(dtype).itemsize > 4 for dtype in dtypes):
        raise ImageError(
            f"wrong pixels: bands of {' and '.join(sorted(dtypes))}; expected real numbers of 8, 16 or 32 bits; "
            "convert them, such as by `gdal_translate -ot Float32 IN OUT`"
        )
    if bands.low is None and dtypes != {"uint8"}:
        raise ImageError(
            f"wrong pixels: bands of {' and '.join(sorted(dtypes))}; say which of their values are black and white: "
            "--range LOW HIGH, or --range percentile 2 98"
        )
    if scene.colorinterp[bands.numbers[0] - 1].name == "palette":
        raise ImageError("wrong pixels: a palette, whose numbers are no colours; `gdal_translate -expand rgb IN OUT`")


def _window(area: Area) -> Any:
    from rasterio.windows import Window

    return Window(area.column, area.row, area.width, area.height)


def _is_complete(scene: Any, bands: Bands) -> bool:
    """Return whether all pixels have data, as the head of the file says."""
    flags = (scene.mask_flag_enums[number - 1] for number in bands.numbers)
    is_float = any(np.dtype(scene.dtypes[number - 1]).kind == "f" for number in bands.numbers)
    return not is_float and any([flag.name for flag in each] == ["all_valid"] for each in flags)


def _valid(scene: Any, bands: Bands, values: npt.NDArray[Any] | None, window: Any) -> npt.NDArray[np.bool_]:
    """Return which pixels of a window have data, bool `(height, width)`. Values are only needed of floats."""
    if _is_complete(scene, bands):
        return np.ones((int(window.height), int(window.width)), bool)
    valid: npt.NDArray[np.bool_] = (scene.read_masks(list(bands.numbers), window=window) > 0).any(axis=0)
    if values is not None and values.dtype.kind == "f":
        valid &= ~np.isnan(values).any(axis=0)
    return valid


def _scaled(
    values: npt.NDArray[Any], limits: tuple[tuple[float, float], ...] | None, valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Return the values of bands `(bands, height, width)` as uint8: those between the limits of a band in [0, 255]."""
    scaled = np.empty(values.shape, np.uint8)
    for band, own in enumerate(values):
        if limits is None:
            scaled[band] = own
        else:
            low, high = limits[band]
            # float32 has no room for the digits of 32 bits
            precise = own.astype(np.float64 if own.dtype.itemsize == 4 else np.float32)
            precise -= low
            precise *= 255 / (high - low)
            scaled[band] = np.rint(np.nan_to_num(precise, copy=False).clip(0, 255, out=precise), out=precise)
        scaled[band][~valid] = 0
    return scaled


def _limits(path: str, bands: Bands) -> tuple[tuple[float, float], ...] | None:
    """Return the values of each band that become 0 and 255; None if values stay."""
    if bands.low is None or bands.high is None:
        return None
    if not bands.percentile:
        return ((bands.low, bands.high),) * len(bands.numbers)
    place = local_path(path)
    status = None if "://" in place else os.stat(place)  # the file may be replaced
    return _percentiles(path, bands, status and (status.st_size, status.st_mtime_ns))


@functools.lru_cache(16)
def _percentiles(path: str, bands: Bands, _: tuple[int, int] | None) -> tuple[tuple[float, float], ...]:
    """Return percentiles of the bands of the whole scene, so that neighbouring parts match.

    They are taken from an overview of the scene, or from blocks that are spread over it, if it has no small one. Those
    of a band are of the values that it has: others may have data where it has none.
    """
    with opened_scene(path) as scene:
        _check_bands(scene, bands)
        samples = [[values[valid] for values, valid in zip(*sample, strict=True)] for sample in _samples(scene, bands)]
    limits = []
    for of_band in zip(*samples, strict=True):
        values = np.concatenate(of_band).astype(np.float64)
        low, high = np.percentile(values, [bands.low, bands.high]).tolist() if values.size else (0.0, 1.0)
        limits.append((low, high if high > low else low + 1))
    return tuple(limits)


def _samples(
    scene: Any, bands: Bands, blocks: int = _SAMPLED_BLOCKS
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """Yield values from all over a scene, `(bands, height, width)`, and which of them are data and finite.

    Of a scene without a small overview, they are those of so many blocks.
    """
    factor = max(scene.height, scene.width) / _SAMPLED_SIDE
    numbers = list(bands.numbers)
    smallest = max(scene.overviews(numbers[0]), default=1)  # how many pixels of the scene a pixel of it has on a side
    if factor <= 4 * smallest:
        height, width = (max(1, round(side / max(factor, 1))) for side in (scene.height, scene.width))
        chosen = [{"out_shape": (len(numbers), height, width)}]
    else:
        windows = [window for _, window in scene.block_windows(numbers[0])]
        places = np.linspace(0, len(windows) - 1, blocks).round().astype(int).tolist()
        chosen = [{"window": windows[place]} for place in sorted({*places})]
    for where in chosen:
        values = scene.read(numbers, **where)
        yield values, (scene.read_masks(numbers, **where) > 0) & np.isfinite(values)
