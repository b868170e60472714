"""Confusion matrices as pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def draw_confusion(confusion: npt.NDArray[Any], class_ids: Sequence[int], id2label: Mapping[int, str]) -> Image.Image:
    """Draw the rows and columns of some classes of a confusion matrix.

    Each cell shows a share of the row's annotated pixels. Pixels predicted as a class that is not drawn count too.

    Args:
        confusion: `(classes, classes)`, pixel counts by annotated class (rows) and predicted class (columns).
        class_ids: the classes to draw, in this order.
        id2label: class names by class id.

    Returns:
        An RGB image.

    Raises:
        ValueError: `class_ids` is empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not class_ids:
        raise ValueError("there are no classes to draw; class_ids needs at least one")
    rows = confusion[list(class_ids)]
    shares = rows[:, list(class_ids)] / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    names = [id2label.get(class_id, str(class_id)).split(",")[0].strip() for class_id in class_ids]
    side = 2.2 + 0.5 * len(names)
    figure = Figure(figsize=(side + 0.6, side), dpi=110, facecolor="white", layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(shares.shape):
        if shares[row, column] >= 0.005:
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=9, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.set_xlabel("predicted, % of the row's annotated pixels")
    axes.set_ylabel("annotated")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of names in other scripts
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
