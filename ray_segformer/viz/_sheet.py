"""Sheets: pictures in a grid, with texts and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_BACKGROUND = (250, 250, 248)
_INK = (40, 40, 40)
_MARGIN = 12
_CAPTION_LINE = 17
_HIGHEST = 4  # times the width of a tile

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    rows: Sequence[Sequence[npt.NDArray[np.uint8]]],
    headings: Sequence[str],
    *,
    captions: Sequence[str] = (),
    legend: Mapping[str, Sequence[int]] | None = None,
    title: str = "",
    tile_width: int = 300,
    sheet_columns: int = 1,
) -> Image.Image:
    """Arrange pictures in a grid, with headings above the columns, a caption below each row and a legend at the end.

    A caption that is too long for one line is wrapped. Headings, the title and names in the legend are cut short.

    Args:
        rows: for each row one picture for each heading: uint8 `(H, W, 3)`, RGB, of any size.
        headings: the names of the columns. If all are empty, no space is left for them.
        captions: a text for each row, or an empty sequence for no captions.
        legend: the colour, RGB from 0 to 255, of each class name.
        title: a line above everything else; "" for none.
        tile_width: the width in pixels that pictures are scaled to. No picture becomes higher than four times that.
        sheet_columns: how many rows to put next to each other.

    Returns:
        An RGB image.
    """
    font, small, large = (ImageFont.load_default(size) for size in (15, 13, 24))
    row_width = len(headings) * (tile_width + _MARGIN) + _MARGIN
    width = row_width * sheet_columns + _MARGIN
    tiles = [[Image.fromarray(scaled(picture, tile_width)) for picture in row] for row in rows]
    texts: list[list[str]] = [_lines(text, row_width - 2 * _MARGIN, small) for text in captions] or [[]] * len(tiles)
    bands = [range(start, min(start + sheet_columns, len(tiles))) for start in range(0, len(tiles), sheet_columns)]
    heights = [
        max(tile.height for row in band for tile in tiles[row])
        + _caption_height([texts[row] for row in band])
        + _MARGIN
        for band in bands
    ]
    top = (44 if title else 0) + (34 if any(headings) else _MARGIN)
    legend_rows = _flow(legend or {}, width - 2 * _MARGIN, font)
    sheet = Image.new("RGB", (width, top + sum(heights) + 30 * len(legend_rows) + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((2 * _MARGIN, _MARGIN), _cut(title, width - 4 * _MARGIN, large), _INK, font=large)
    for column in range(sheet_columns):
        for index, heading in enumerate(headings):
            left = column * row_width + 2 * _MARGIN + index * (tile_width + _MARGIN)
            draw.text((left, top - 26), _cut(heading, tile_width, font), _INK, font=font)
    y = top
    for band, height in zip(bands, heights, strict=True):
        for column, row in enumerate(band):
            for index, tile in enumerate(tiles[row]):
                sheet.paste(tile, (column * row_width + 2 * _MARGIN + index * (tile_width + _MARGIN), y))
            text_top = y + max(tile.height for tile in tiles[row]) + 3
            for number, line in enumerate(texts[row]):
                position = (column * row_width + 2 * _MARGIN, text_top + number * _CAPTION_LINE)
                draw.text(position, line, _INK, font=small)
        y += height
    for entries in legend_rows:
        for left, name, colour in entries:
            draw.rectangle((left, y + 4, left + 18, y + 22), fill=colour)
            draw.text((left + 26, y + 5), name, _INK, font=font)
        y += 30
    return sheet


def scaled(picture: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Return a picture, uint8 `(H, W, 3)`, scaled to a width in pixels with the same proportions.

    One that is much higher than wide becomes narrower: no tile is higher than four times its width.
    """
    scale = min(width / picture.shape[1], _HIGHEST * width / picture.shape[0])
    height, width = (max(round(side * scale), 1) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def note(text: str, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return a grey picture with a text, to show in place of a missing picture.

    Returns:
        uint8 `(height, width, 3)`, or higher if the text needs more space.
    """
    font = ImageFont.load_default(13)
    lines = _lines(text, width - 2 * _MARGIN, font)
    picture = Image.new("RGB", (width, max(height, 2 * _MARGIN + len(lines) * _CAPTION_LINE)), (225, 225, 222))
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * _CAPTION_LINE), line, _INK, font=font)
    return np.array(picture)


def _caption_height(texts: Sequence[Sequence[str]]) -> int:
    """Return the pixels needed below a line of pictures for the longest of their captions."""
    lines = max(map(len, texts))
    return 7 + lines * _CAPTION_LINE if lines else 0


def _lines(text: str, width: int, font: _Font) -> list[str]:
    """Wrap a text into lines of at most `width` pixels: at spaces if possible, else (as in long paths) anywhere."""
    lines = []
    text = " ".join(text.splitlines())  # Pillow cannot measure several lines
    while text:
        end = _fitting(text, width, font)
        if end < len(text):
            space = text.rfind(" ", 1, end + 1)
            end = space if space > 0 else end
        lines.append(text[:end])
        text = text[end:].lstrip()
    return lines


def _cut(text: str, width: int, font: _Font) -> str:
    """Return a text as one line of at most `width` pixels. A longer text is cut and ends with three dots."""
    text = " ".join(text.splitlines())
    if font.getlength(text) <= width:
        return text
    return text[: _fitting(text, width - font.getlength("..."), font)] + "..."


def _fitting(text: str, width: float, font: _Font) -> int:
    """Return how many characters of a text fit into `width` pixels, but at least 1, so that callers make progress."""
    end = len(text)
    while end > 1 and font.getlength(text[:end]) > width:
        end -= 1
    return end


def _flow(legend: Mapping[str, Sequence[int]], width: int, font: _Font) -> list[list[tuple[int, str, tuple[int, ...]]]]:
    """Arrange the legend's entries, as (left edge, name, colour), in lines of at most `width` pixels."""
    lines: list[list[tuple[int, str, tuple[int, ...]]]] = []
    left = width
    for name, colour in legend.items():
        shown = _cut(name, width - 2 * _MARGIN - 26, font)
        extent = 26 + round(font.getlength(shown)) + 28
        if left + extent > width:
            lines.append([])
            left = 2 * _MARGIN
        lines[-1].append((left, shown, tuple(int(value) for value in colour)))
        left += extent
    return lines
