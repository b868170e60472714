"""TIFF files of scenes, opened by rasterio so that GDAL reads that one file and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ray_segformer.images._errors import ImageError, as_image_error
from ray_segformer.images._files import open_file

SCENE_SUFFIXES = frozenset((".tif", ".tiff"))
"""The suffixes of the files that can be scenes."""

NO_RASTERIO = 'scenes (--bands, --range) need rasterio: pip install "ray_segformer[geo]"'
"""The message where rasterio is not installed."""

_NAME = "scene"  # of the only file that GDAL is given
_CACHE_MEGABYTES = 64  # of decoded blocks
_MOST_BYTES_OF_BLOCK = 2**29  # GDAL decodes a block as a whole
_LONGEST_SIDE, _MOST_PIXELS = 2**20, 2**38  # of a scene: the driver has a row for each part of it


@contextmanager
def opened_scene(path: str) -> Iterator[Any]:
    """Open a scene for reading by parts, as rasterio's `DatasetReader`.

    GDAL gets one file, through Python, and opens no other: no sidecar files, and nothing that a file names.

    Raises:
        ImageError: also for what the `with` block raises.
    """
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise ImageError(f"cannot read the file: {NO_RASTERIO}") from error

    def open_scene(name: str, mode: str = "rb", **_: Any) -> Any:
        if name != _NAME:
            raise FileNotFoundError(name)
        return open_file(path)

    open_file(path).close()  # a clearer error than GDAL's
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)  # coordinates are not used
    options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_CACHEMAX": _CACHE_MEGABYTES}
    with _clear_errors(), rasterio.Env(**options), rasterio.open(_NAME, driver="GTiff", opener=open_scene) as scene:
        _check_size(scene)
        _check_blocks(scene)
        yield scene


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Raise errors of GDAL as `ImageError`, without the name that GDAL has for the file."""
    import rasterio.errors

    try:
        with as_image_error("decode the image"):
            yield
    except ImageError as error:
        cause = error.__cause__
        if not isinstance(cause, rasterio.errors.RasterioError):
            raise
        reason = str(cause.__cause__ or cause).split(_NAME, 1)[-1].strip(" :'\"")
        raise ImageError(f"cannot decode: no TIFF file that GDAL reads, or a damaged one: {reason}") from cause


def _check_size(scene: Any) -> None:
    """Refuse a file whose head says that it has more pixels than any scene."""
    if max(scene.shape) > _LONGEST_SIDE or scene.height * scene.width > _MOST_PIXELS:
        raise ImageError(
            f"too large: a scene of {scene.width} x {scene.height} pixels; expected at most {_LONGEST_SIDE} on a side, "
            f"and {_MOST_PIXELS} together; cut it, by `gdal_translate -srcwin X Y WIDTH HEIGHT IN OUT`"
        )


def _check_blocks(scene: Any) -> None:
    """Refuse a file whose blocks, of which GDAL decodes each as a whole, are huge."""
    together = scene.count if scene.interleaving is not None and scene.interleaving.value.lower() == "pixel" else 1
    for (height, width), dtype in zip(scene.block_shapes, scene.dtypes, strict=True):
        size = height * width * np.dtype(dtype).itemsize * together
        if size > _MOST_BYTES_OF_BLOCK:
            raise ImageError(
                f"too large: the blocks of this TIFF file have {width} x {height} pixels, {size} bytes; rewrite it in "
                "tiles, by `gdal_translate -co TILED=YES IN OUT`"
            )
