"""Annotations: image cells whose pixels are class ids, or colours that stand for class ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ray_segformer.images import _tiff as tiff
from ray_segformer.images._encoded import MAX_PIXELS, check_size, encoded_bytes, open_image
from ray_segformer.images._errors import ImageError, as_image_error
from ray_segformer.images._header import pixel_coding
from ray_segformer.images._lossy import lossy_format

_MOST_IDS = 2**16

# The largest value of a grey file of few bits, by Pillow's name of the coding. Pillow stretches values to [0, 255].
_LARGEST = {"L;2": 3, "L;4": 15, "L;2R": 3, "L;4R": 15}


@dataclass(frozen=True)
class LabelFormat:
    """How annotations are stored: colours or class ids, and which of them a model calls by another id.

    Args:
        label_map: other ids for ids of the files, both in [0, 65535], such as `{255: 1}`. Other ids stay as they are. A
            model ignores pixels of its ignore index, 255 by default.
        colors: class ids by the RGB colours that stand for them, such as `{(128, 0, 0): 1}`; None if pixels are ids.
        reduce_labels: whether 0 is to become 255 and k is to become k - 1, after `label_map`; see `reduce_labels`.

    Raises:
        ValueError: an id or a colour is invalid.
    """

    label_map: Mapping[int, int] = field(default_factory=dict)
    colors: Mapping[tuple[int, int, int], int] | None = None
    reduce_labels: bool = False

    def __post_init__(self) -> None:
        for name, ids in (
            ("label_map", [*self.label_map, *self.label_map.values()]),
            ("label_colors", (self.colors or {}).values()),
        ):
            wrong = [value for value in ids if not _is_whole(value, _MOST_IDS)]
            if wrong:
                raise ValueError(f"{name}: class ids are whole numbers in [0, 65535], not {wrong[0]!r}")
        for color in self.colors or ():
            if not isinstance(color, tuple) or len(color) != 3 or not all(_is_whole(part, 256) for part in color):
                raise ValueError(f"label_colors: a colour is (r, g, b), each in [0, 255], not {color!r}")
        if self.colors is not None and not self.colors:
            raise ValueError("label_colors: there is no colour; None means that pixels are class ids")

    def class_ids(self, cell: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8 | np.uint16]:
        """Return the class ids of the annotation in a cell.

        Without `colors`, they are what the file stores: of a palette image the indices, and of an image whose channels
        are equal the value of each. Alpha is dropped. With `colors`, every pixel counts as a colour: of a palette image
        that of the palette, of a grey image the grey.

        Args:
            cell, max_pixels: as for `to_rgb`.

        Returns:
            `(H, W)`, uint8, or uint16 if any id is above 255.

        Raises:
            ImageError: as for `to_rgb`; also if the file format is lossy, if pixels are colours and `colors` is None or
                lacks them, or if pixels are neither ids nor colours.
        """
        if cell is None:
            raise ImageError("null: there is no annotation")
        stored, palette = _stored(cell, max_pixels, as_ids=self.colors is None)
        ids = _one_channel(stored) if self.colors is None else _ids_of_colors(stored, palette, self.colors)
        if self.label_map:
            table = np.arange(_MOST_IDS, dtype=np.uint16)
            table[list(self.label_map)] = list(self.label_map.values())
            ids = table[ids]
        ids = ids.astype(np.uint8 if ids.dtype == np.uint8 or ids.max() <= 255 else np.uint16)
        return reduce_labels(ids) if self.reduce_labels else ids


def to_class_ids(cell: Any, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the annotation in a cell, as `LabelFormat().class_ids` does: class ids as the file stores them."""
    return LabelFormat().class_ids(cell, max_pixels)


def reduce_labels(annotation: npt.NDArray[Any], ignore_index: int = 255) -> npt.NDArray[Any]:
    """Convert class ids as ADE20K's files number them to the ids of a model, as transformers' `do_reduce_labels` does.

    ADE20K's files use 0 for "other" and count classes from 1. A model counts classes from 0 and ignores `ignore_index`.

    Args:
        annotation: class ids, any shape and integer dtype.
        ignore_index: the id that replaces 0. Pixels that have it already keep it.

    Returns:
        The same shape and dtype; int64 if the dtype is bool, or cannot hold `ignore_index`.

    Raises:
        ValueError: the dtype is not an integer one.
    """
    kept = np.asarray(annotation).dtype
    if kept.kind not in "biu":
        raise ValueError(f"the annotation must hold integer class ids, not {kept}")
    if kept.kind == "b" or not np.iinfo(kept).min <= ignore_index <= np.iinfo(kept).max:
        kept = np.dtype(np.int64)
        annotation = np.asarray(annotation, np.int64)
    ignored = (annotation == 0) | (annotation == ignore_index)
    return np.where(ignored, ignore_index, annotation - np.where(ignored, 0, 1)).astype(kept)


def advice_on_size(annotation: tuple[int, ...], image: tuple[int, ...]) -> str:
    """Return advice for an annotation whose size differs from its image: the end of an error message.

    Args:
        annotation, image: height and width of each.
    """
    if annotation == image[::-1]:
        return "if it was made without applying the image's EXIF orientation, rotate it"
    return "an annotation must have the size of its image"


def _is_whole(value: Any, end: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= int(value) < end


def _stored(cell: Any, max_pixels: int, as_ids: bool) -> tuple[npt.NDArray[Any], list[int] | None]:
    """Return what a cell stores, uint8 or uint16 `(H, W)` or `(H, W, 2 | 3 | 4)`, and its palette or None."""
    palette = None
    if isinstance(cell, np.ndarray):
        stored = np.asarray(cell[..., 0] if cell.ndim == 3 and cell.shape[-1] == 1 else cell)
    else:
        source = cell if isinstance(cell, Image.Image) else encoded_bytes(cell, max_pixels)
        image = _opened(source, max_pixels)
        lossy = lossy_format(image, source)
        if lossy:
            raise ImageError(f"wrong pixels: class ids do not survive {lossy}; save annotations as PNG")
        coding, largest = _coding(image)
        if len(image.getbands()) > 1 and (image.mode not in ("LA", "PA", "RGB", "RGBA") or "16" in coding):
            what = f"16 bits for each channel of {image.mode}" if "16" in coding else f"the mode {image.mode}"
            raise ImageError(f"wrong pixels: {what} holds neither class ids nor colours; save ids as one channel")
        if as_ids and coding.startswith("L;") and "I" in coding:
            raise ImageError(
                "wrong pixels: class ids in a TIFF file of the photometric interpretation MinIsWhite; save PNG"
            )
        with as_image_error("decode the annotation"):
            stored = np.asarray(ImageOps.exif_transpose(image))
        if image.mode in ("P", "PA"):
            palette = image.getpalette("RGB")
            stored = stored[..., 0] if image.mode == "PA" else stored
            if as_ids and palette:
                _check_greys(stored, palette)
        if as_ids and largest:
            stored = np.rint(stored * (largest / (65535 if image.mode == "I" else 255))).astype(np.uint16)
    if stored.dtype.kind not in "biu":
        raise ImageError(f"wrong pixels: an annotation holds integer class ids, not {stored.dtype}")
    if stored.ndim not in (2, 3) or (stored.ndim == 3 and stored.shape[-1] not in (2, 3, 4)) or stored.size == 0:
        raise ImageError(
            f"wrong shape: an annotation has the shape (H, W) or (H, W, 1), or (H, W, 3) of equal channels or of "
            f"colours, not {stored.shape}"
        )
    check_size(stored.shape[1], stored.shape[0], max_pixels)
    if stored.dtype == bool:
        return stored.astype(np.uint8) * np.uint8(1 if as_ids else 255), palette
    if stored.dtype not in (np.uint8, np.uint16):
        low, high = int(stored.min()), int(stored.max())
        if low < 0 or high >= _MOST_IDS:
            raise ImageError(
                f"wrong pixels: class ids are in [0, 65535], but these are in [{low}, {high}]; write 255 for pixels "
                "that do not count"
            )
        stored = stored.astype(np.uint16)
    return stored, palette


def _check_greys(indices: npt.NDArray[Any], palette: list[int]) -> None:
    """Refuse a grey palette whose grey levels differ from their indices: either may be the class ids.

    Programs that save grey ids as GIF, for example, write such a palette. Black and white are accepted, because a mask
    of two classes looks like that.
    """
    used = [index for index in np.flatnonzero(np.bincount(indices.ravel())).tolist() if 3 * index + 2 < len(palette)]
    colors = [tuple(palette[3 * index : 3 * index + 3]) for index in used]
    greys = {index: color[0] for index, color in zip(used, colors, strict=True) if len({*color}) == 1}
    if len(greys) < len(used) or {*greys.values()} <= {0, 255} or all(index == grey for index, grey in greys.items()):
        return
    index, grey = next(pair for pair in greys.items() if pair[0] != pair[1])
    raise ImageError(
        f"wrong pixels: the annotation has a palette of greys, in which {index} is the grey {grey}, and either may be "
        "the class id; save ids as one grey channel, or say which grey is which class with --label-colors "
        "(label_colors=)"
    )


def _opened(source: Any, max_pixels: int) -> Image.Image:
    """Open an annotation. An error does not advise what is good for photos alone: it would stretch class ids."""
    try:
        return open_image(source, max_pixels)
    except ImageError as error:
        what, is_tiff, _ = str(error).partition(tiff.EXPECTED)
        if not is_tiff:
            raise
        raise ImageError(
            f"{what}class ids are in [0, 65535], in one band of uint8 or uint16; convert the file, and give pixels "
            "without a class an id of their own, such as 255"
        ) from error


def _coding(image: Image.Image) -> tuple[str, int | None]:
    """Return how the file stores pixels, before they are decoded.

    Returns:
        Pillow's name of it, such as "L;4" ("" if the image is decoded already), and the largest value that one channel
        can have in the file, if Pillow stretches it to all 8 or 16 bits.
    """
    tile: Any = getattr(image, "tile", None)
    codec, arguments = (tile[0][0], tile[0][3]) if tile else ("", "")
    coding = pixel_coding(image)
    if len(image.getbands()) == 1 and codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple):
        return coding, int(arguments[-1])
    return coding, _LARGEST.get(coding)


def _one_channel(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the channel of class ids."""
    if stored.ndim == 2:
        return stored
    ids = stored[..., 0]
    *channels, last = (stored[..., place] for place in range(stored.shape[-1]))
    if len(channels) in (1, 3) and np.ptp(last) and not any(map(np.ptp, channels)):
        raise ImageError("wrong pixels: the annotation is in the alpha channel alone; save it as one channel")
    if stored.shape[-1] > 2:
        colored = (ids != stored[..., 1]) | (ids != stored[..., 2])
        if colored.any():
            color = tuple(map(int, stored[colored][0, :3]))
            raise ImageError(
                f"wrong pixels: the annotation has colours, not class ids ({color}, for example; {colored.sum()} "
                "pixels are not grey); say which colour is which class with --label-colors (label_colors=)"
            )
    return ids


def _ids_of_colors(
    stored: npt.NDArray[Any], palette: list[int] | None, colors: Mapping[tuple[int, int, int], int]
) -> npt.NDArray[Any]:
    """Return the class ids of colours, uint16 `(H, W)`."""
    if stored.dtype != np.uint8 and stored.max() > 255:
        raise ImageError(f"wrong pixels: colours are in [0, 255], but these go to {stored.max()}")
    if palette is not None:
        full = np.zeros(768, np.uint32)
        full[: len(palette)] = palette
        codes = _codes(full.reshape(256, 3))[stored]
    else:
        channels = stored[..., None] if stored.ndim == 2 else stored
        codes = _codes(channels[..., [0, 1, 2] if channels.shape[-1] > 2 else [0, 0, 0]])
    known = _codes(np.array(list(colors)))
    order = np.argsort(known)
    known, ids = known[order], np.array(list(colors.values()), np.uint16)[order]
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    unknown = codes[known[places] != codes]
    if unknown.size:
        codes, counts = np.unique(unknown, return_counts=True)
        most = np.argsort(-counts)[:2]
        examples = ", ".join(
            f"({code >> 16}, {code >> 8 & 255}, {code & 255}) of {count} pixels"
            for code, count in zip(codes[most].tolist(), counts[most].tolist(), strict=True)
        )
        raise ImageError(
            f"wrong pixels: colours of the annotation ({len(codes)}) stand for no class, such as {examples}; add them "
            "to --label-colors (label_colors=), as ignored (255) if they are none"
        )
    return np.asarray(ids[places])


def _codes(colors: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return colours `(..., 3)` as one number each."""
    wide = colors.astype(np.uint32)
    return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2], np.uint32)
