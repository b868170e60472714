"""GeoTIFF files of class ids, where the scenes are that they were made from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.exports._export_format import ExportError
from ray_segformer.exports._source_format import SourceFormat, SourcePart
from ray_segformer.images import SCENE_SUFFIXES, ImageError, as_stored, opened_scene, public_uri
from ray_segformer.viz import class_palette

_BLOCK = 512  # pixels on each side of a tile


class GeoTiff(SourceFormat):
    """Class ids of a scene, with its coordinate reference system, transform (or ground control points) and size.

    The files are tiled and compressed by LZW. The band has the classes' colours as its colour table, and their names
    as tags, `CLASS_0` and so on. Pixels for which the scene has no data, or a part of it no mask, have the nodata
    value 255, or 65535 of uint16. The mask of a file with an orientation is turned back, to the pixels as they are
    stored. Needs rasterio.
    """

    suffix = ".tif"
    kind = "GeoTIFF files"
    columns = ("row", "column")
    suffixes = SCENE_SUFFIXES
    takes_whole_files = True

    def __init__(self, id2label: Mapping[int, str]) -> None:
        super().__init__(id2label)
        try:
            import rasterio  # noqa: F401
        except ImportError as error:
            raise ExportError('the format geotiff needs rasterio: pip install "ray_segformer[geo]"') from error
        self._palette = class_palette(self.id2label)

    def write(self, source: str, parts: Iterator[SourcePart], path: str) -> None:
        """See `SourceFormat`."""
        try:
            with opened_scene(source) as scene:
                # The mask of a whole file is upright. A place on Earth is that of pixels as they are stored.
                parts = (part if part.place else SourcePart({}, as_stored(part.mask, source)) for part in parts)
                mask = _put_together(parts, scene.shape, f"{path}.pixels")
                self._write(scene, mask, path)
                del mask
                os.remove(f"{path}.pixels")
        except ImageError as error:
            raise ExportError(f"{public_uri(source)}: its place on Earth is not found: {error}") from error

    def _write(self, scene: Any, mask: npt.NDArray[np.unsignedinteger[Any]], path: str) -> None:
        import rasterio
        from rasterio.enums import MaskFlags
        from rasterio.windows import Window

        no_data = int(np.iinfo(mask.dtype).max)
        is_complete = all(flags == [MaskFlags.all_valid] for flags in scene.mask_flag_enums)
        size = {"height": scene.height, "width": scene.width, "count": 1, "dtype": mask.dtype.name}
        layout = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "lzw", "BIGTIFF": "IF_SAFER"}
        with rasterio.open(path, "w", driver="GTiff", **size, **layout, **_place(scene)) as file:
            # Before the pixels: then it is a palette image, which viewers that know no GIS show in colours, too.
            file.write_colormap(1, {class_id: (*self._palette[class_id].tolist(), 255) for class_id in self.id2label})
            has_no_data = not is_complete
            for row in range(0, scene.height, _BLOCK):
                window = Window(0, row, scene.width, min(_BLOCK, scene.height - row))
                rows = mask[row : row + _BLOCK]
                if not is_complete:
                    rows = np.where(scene.dataset_mask(window=window) > 0, rows, no_data)
                has_no_data |= bool((rows == no_data).any())
                file.write(rows.astype(mask.dtype, copy=False), 1, window=window)
            if has_no_data:
                file.nodata = no_data
            file.update_tags(1, **{f"CLASS_{class_id}": name for class_id, name in self.id2label.items()})
            file.update_tags(**{"AREA_OR_POINT": scene.tags().get("AREA_OR_POINT", "Area")})


def _place(scene: Any) -> dict[str, Any]:
    """Return where a scene is on Earth, as arguments of `rasterio.open`."""
    points, crs_of_points = scene.gcps
    if points:
        return {"gcps": points, "crs": crs_of_points, "rpcs": scene.rpcs}
    transform = None if scene.transform.is_identity else scene.transform
    return {"crs": scene.crs, "transform": transform, "rpcs": scene.rpcs}


def _put_together(
    parts: Iterator[SourcePart], size: tuple[int, int], path: str
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the masks of the parts of a scene as one, in a file of its pixels, since it may be huge.

    Raises:
        ExportError: a part is not in the scene.
    """
    whole: npt.NDArray[np.unsignedinteger[Any]] | None = None
    for part in parts:
        if whole is None:
            whole = np.memmap(path, part.mask.dtype, "w+", shape=size)
            for row in range(0, size[0], _BLOCK):
                whole[row : row + _BLOCK] = np.iinfo(part.mask.dtype).max
        row, column = part.place.get("row", 0), part.place.get("column", 0)
        place = whole[row : row + part.mask.shape[0], column : column + part.mask.shape[1]]
        if place.shape != part.mask.shape:
            raise ExportError(
                f"the scene has {size[1]} x {size[0]} pixels now, and no place for a mask of {part.mask.shape[1]} x "
                f"{part.mask.shape[0]} at row {row}, column {column}; predict it again"
            )
        place[:] = part.mask
    assert whole is not None  # there is at least one part
    return whole
