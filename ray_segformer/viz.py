"""Class maps as pictures: palettes, overlays, contact sheets."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_BACKGROUND = (250, 250, 248)
_INK = (40, 40, 40)
_MARGIN = 12


def make_palette(num_classes: int) -> np.ndarray:
    """Colours that tell neighbouring class ids apart.

    Hues are a golden angle apart, so that any few consecutive ones differ; lightness changes in turn.

    Returns:
        uint8 `(num_classes, 3)`, RGB.
    """
    golden = (5**0.5 - 1) / 2
    colours = [
        colorsys.hls_to_rgb((0.58 + class_id * golden) % 1, (0.42, 0.58, 0.72)[class_id % 3], 0.65)
        for class_id in range(num_classes)
    ]
    return (np.array(colours).reshape(num_classes, 3) * 255).round().astype(np.uint8)


def colorize(segmentation: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class ids `(H, W)` in their colours, uint8 `(H, W, 3)`; ids without a colour (255, ignored) are black."""
    colours = np.zeros((int(max(segmentation.max(initial=0), len(palette))) + 1, 3), np.uint8)
    colours[: len(palette)] = palette
    return colours[segmentation]


def overlay(image: np.ndarray, segmentation: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """An image under its class map, with the borders between classes drawn in full colour.

    Args:
        image: uint8 `(H, W, 3)`, RGB.
        segmentation: class ids `(H, W)`.
        palette: uint8 `(classes, 3)`.
        alpha: how much of the class colour there is, from 0 to 1.

    Returns:
        uint8 `(H, W, 3)`.

    Raises:
        ValueError: the sizes differ.
    """
    if image.shape[:2] != segmentation.shape:
        raise ValueError(f"the image is {image.shape[:2]} but its segmentation is {segmentation.shape}, (H, W)")
    colours = colorize(segmentation, palette)
    border = np.zeros(segmentation.shape, bool)
    border[:, 1:] |= segmentation[:, 1:] != segmentation[:, :-1]
    border[1:, :] |= segmentation[1:, :] != segmentation[:-1, :]
    weight = np.where(border, 1.0, alpha)[..., None].astype(np.float32)
    return (image * (1 - weight) + colours * weight + 0.5).astype(np.uint8)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    headings: Sequence[str],
    *,
    captions: Sequence[str] = (),
    legend: Mapping[str, Sequence[int]] | None = None,
    title: str = "",
    tile_width: int = 300,
    sheet_columns: int = 1,
) -> Image.Image:
    """Pictures in a grid, with headings above its columns, a caption below each row and a legend at the end.

    Args:
        rows: for each row, one RGB picture uint8 `(H, W, 3)` per heading; sizes may differ.
        headings: the names of the columns.
        captions: a line of text for each row, or none.
        legend: colours by class name.
        title: a line above everything.
        tile_width: pixels; pictures are scaled to it.
        sheet_columns: how many rows to put beside each other.
    """
    font, small, large = (ImageFont.load_default(size) for size in (15, 13, 24))
    row_width = len(headings) * (tile_width + _MARGIN) + _MARGIN
    tiles = [
        [Image.fromarray(picture).resize((tile_width, _scaled(picture, tile_width))) for picture in row] for row in rows
    ]
    caption_height = 24 if captions else 0
    bands = [tiles[start : start + sheet_columns] for start in range(0, len(tiles), sheet_columns)]
    heights = [max(tile.height for row in band for tile in row) + caption_height + _MARGIN for band in bands]
    top = (44 if title else 0) + 34
    width = row_width * sheet_columns + _MARGIN
    legend_rows = _flow(legend or {}, width - 2 * _MARGIN, font)
    sheet = Image.new("RGB", (width, top + sum(heights) + 30 * len(legend_rows) + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((2 * _MARGIN, _MARGIN), title, _INK, font=large)
    for column in range(sheet_columns):
        for index, heading in enumerate(headings):
            left = column * row_width + 2 * _MARGIN + index * (tile_width + _MARGIN)
            draw.text((left, top - 26), heading, _INK, font=font)
    y, number = top, 0
    for band, height in zip(bands, heights, strict=True):
        for column, row in enumerate(band):
            for index, tile in enumerate(row):
                sheet.paste(tile, (column * row_width + 2 * _MARGIN + index * (tile_width + _MARGIN), y))
            if captions:
                position = (column * row_width + 2 * _MARGIN, y + max(tile.height for tile in row) + 3)
                draw.text(position, captions[number], _INK, font=small)
            number += 1
        y += height
    for line in legend_rows:
        for left, name, colour in line:
            draw.rectangle((left, y + 4, left + 18, y + 22), fill=colour)
            draw.text((left + 26, y + 5), name, _INK, font=font)
        y += 30
    return sheet


def _scaled(picture: np.ndarray, width: int) -> int:
    return max(round(picture.shape[0] * width / picture.shape[1]), 1)


def _flow(
    legend: Mapping[str, Sequence[int]], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[list[tuple[int, str, tuple[int, ...]]]]:
    """Legend entries in lines of `width` pixels: (left edge, name, colour)."""
    lines: list[list[tuple[int, str, tuple[int, ...]]]] = []
    left = width
    for name, colour in legend.items():
        extent = 26 + round(font.getlength(name)) + 28
        if left + extent > width:
            lines.append([])
            left = 2 * _MARGIN
        lines[-1].append((left, name, tuple(int(value) for value in colour)))
        left += extent
    return lines
