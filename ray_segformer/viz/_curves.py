"""Training curves as a picture: losses and mean IoU by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# The two differ in lightness, marker and line too, for readers who cannot tell the colours apart.
_TRAINING: dict[str, Any] = {"color": "#0063a0", "marker": "o"}
_VALIDATION: dict[str, Any] = {"color": "#c44e00", "marker": "s", "linestyle": "--"}
_INK = "#282828"

_SIZE = (9, 3.4)  # inches
_DPI = 130


def draw_curves(training: Mapping[str, Any]) -> Image.Image:
    """Draw two panels by epoch: the losses of training and validation, and the mean IoU of validation.

    Args:
        training: the content of a `training.json` that `ray_segformer.train` wrote, or `checkpoint.content.training`.
            Its `history` is a list of dicts with `epoch`, `loss`, `val_loss` and `mean_iou`. A value of None is a gap.

    Returns:
        An RGB image, 1170 pixels wide and 442 pixels high.

    Raises:
        ValueError: `history` is missing or empty.
        KeyError: an epoch lacks one of these values.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history = training.get("history")
    if not history:
        raise ValueError("there is no history; expected the training.json of a model that ray_segformer.train trained")
    epochs = [epoch["epoch"] for epoch in history]
    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white", layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    losses.plot(epochs, _values(history, "loss"), label="training", **_TRAINING)
    losses.plot(epochs, _values(history, "val_loss"), label="validation", **_VALIDATION)
    losses.legend(fontsize=8, frameon=False, labelcolor=_INK)
    ious = _values(history, "mean_iou")
    scores.plot(epochs, ious, **_VALIDATION)
    if not np.isnan(ious).all():
        best = int(np.nanargmax(ious))
        scores.annotate(
            f"{ious[best]:.3f}", (epochs[best], ious[best]), xytext=(0, -13), textcoords="offset points", ha="center",
            fontsize=8, color=_INK,
        )  # fmt: skip
        scores.margins(y=0.2)
    for axes, title in ((losses, "loss"), (scores, "mean IoU of validation")):
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
        axes.set_xlabel("epoch", fontsize=9, color=_INK)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8, labelcolor=_INK)
        axes.grid(axis="y", color="#e6e5e1")
        axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _values(history: list[Mapping[str, Any]], name: str) -> npt.NDArray[np.float64]:
    """Return a value of every epoch, NaN for None."""
    return np.array([np.nan if epoch[name] is None else epoch[name] for epoch in history], float)
