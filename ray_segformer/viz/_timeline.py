"""Timelines of runs as a picture: a panel for each run, and in it a lane for each worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from ray_segformer.architectures import Event, Timeline

# The colours differ in lightness too: pale, medium, strong. Blue and vermillion are distinct for every kind of colour
# vision.
_IDLE = "#f0efec"
_LOAD: dict[str, Any] = {"facecolor": "#d2d2d2", "edgecolor": "#8c8c8c", "hatch": "////", "linewidth": 0}
_PREPROCESS = "#a9d3ee"
_PREDICT = ("#0063a0", "#c44e00", "#1d2b53")
_INK = "#282828"

# Inches: the picture's width, and the heights of a lane, of a title, and of the legend and the axis together.
_WIDTH, _LANE, _TITLE, _AROUND = 11, 0.3, 0.36, 0.65
_PADDING = 0.2  # lanes: the space above the first lane and below the last one, together
_DPI = 130


def draw_timelines(timelines: Mapping[str, Timeline]) -> Image.Image:
    """Draw runs above each other on one time axis. 0 s is the start of each run, and a vertical line is its end.

    Each worker has a lane, pale where the worker was idle. Lanes are in the order of the workers' first events, grouped
    by node. Loading a model is hatched grey, preprocessing is pale blue, and predictions have strong colours that
    change from batch to batch. If a bar is wide enough, it shows the positions of its images. Above each panel are the
    duration of the run, the share of the workers' time that they preprocessed or predicted, and the number of loads.

    Args:
        timelines: timelines by name. The name is drawn above the panel.

    Returns:
        An RGB image, 1430 pixels wide. Its height depends on the number of lanes.

    Raises:
        ValueError: `timelines` is empty, or a timeline has no events.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not timelines:
        raise ValueError("there are no timelines; expected at least one")
    for name, timeline in timelines.items():
        if not timeline.events:
            raise ValueError(f"the timeline of {name!r} has no events")
    lanes = [len(timeline.workers) + _PADDING for timeline in timelines.values()]
    height = _LANE * sum(lanes) + _TITLE * len(lanes) + _AROUND
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white", layout=layout)
    canvas: Any = FigureCanvasAgg(figure)
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False, height_ratios=lanes)[:, 0]
    texts = []
    for axes, (name, timeline) in zip(panels, timelines.items(), strict=True):
        texts += _draw_panel(axes, name, timeline)
    panels[0].set_xlim(0, max(timeline.seconds for timeline in timelines.values()) * 1.01)
    panels[-1].set_xlabel("seconds since the start of the run", fontsize=9, color=_INK)
    _draw_legend(figure)
    figure.draw_without_rendering()  # computes the layout; without it the widths of bars are unknown
    for text, start, end in texts:
        (left, _), (right, _) = text.axes.transData.transform([(start, 0), (end, 0)])
        text.set_visible(text.get_window_extent().width + 4 < right - left)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _draw_panel(axes: Any, name: str, timeline: Timeline) -> list[tuple[Any, float, float]]:
    """Draw a run. Return the text of each bar with the start and the end of the bar, in seconds."""
    labels = _labels(timeline)
    lanes = {worker: lane for lane, worker in enumerate(labels)}
    axes.barh(range(len(lanes)), timeline.seconds, height=0.84, color=_IDLE)
    bars: dict[str, list[tuple[Event, int]]] = {"load": [], "preprocess": [], "predict": []}
    for event in timeline.events:
        bars[event.kind].append((event, lanes[event.worker]))
    batches = dict.fromkeys(lanes.values(), 0)
    colours = []
    for _, lane in bars["predict"]:
        # Consecutive batches of a lane differ in colour. Those of neighbouring lanes at the same time mostly do too.
        colours.append(_PREDICT[(lane + batches[lane]) % len(_PREDICT)])
        batches[lane] += 1
    styles: dict[str, dict[str, Any]] = {
        "load": _LOAD,
        "preprocess": {"color": _PREPROCESS},
        "predict": {"color": colours},
    }
    texts = []
    for kind, events in bars.items():
        if not events:
            continue
        starts = [event.start - timeline.start for event, _ in events]
        seconds = [event.seconds for event, _ in events]
        axes.barh([lane for _, lane in events], seconds, left=starts, height=0.7, **styles[kind])
        if kind == "load":
            continue
        colour = "white" if kind == "predict" else _INK
        for (event, lane), start in zip(events, starts, strict=True):
            middle = start + event.seconds / 2
            text = axes.text(
                middle, lane, _range(event.images), color=colour, fontsize=7.5, ha="center", va="center_baseline",
                clip_on=True,
            )  # fmt: skip
            text.set_in_layout(False)
            texts.append((text, start, start + event.seconds))
    axes.axvline(timeline.seconds, color=_INK, linewidth=1.5)
    axes.set_yticks(range(len(labels)), list(labels.values()), fontsize=8, color=_INK)
    axes.set_ylim(len(labels) - 0.5 + _PADDING / 2, -0.5 - _PADDING / 2)
    axes.tick_params(axis="x", labelsize=8, labelcolor=_INK)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    loads = f"{timeline.loads} load" + "s" * (timeline.loads != 1)
    busy = f"workers busy {100 * timeline.busy_share:.0f} %"
    title = f"{name}: {_seconds(timeline.seconds)} s, {busy}, {loads}"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK, parse_math=False)
    return texts


def _draw_legend(figure: Any) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, Any] = {
        "idle": Patch(color=_IDLE),
        "loading the model": Patch(**_LOAD),
        "preprocessing": Patch(color=_PREPROCESS),
        "prediction, one bar per batch": tuple(Patch(color=colour) for colour in _PREDICT),
        "end of the run": Line2D([], [], color=_INK, linewidth=1.5),
    }
    figure.legend(
        list(entries.values()), list(entries), handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside upper center", ncols=len(entries), fontsize=8, frameon=False,
    )  # fmt: skip


def _labels(timeline: Timeline) -> dict[tuple[str, int], str]:
    """Return the label of each worker's lane, from top to bottom. Workers are grouped by node."""
    nodes: dict[str, list[tuple[str, int]]] = {}
    for worker in timeline.workers:
        nodes.setdefault(worker[0], []).append(worker)
    return {
        worker: f"node {node}, worker {number}" if len(nodes) > 1 else f"worker {number}"
        for node, workers in enumerate(nodes.values(), 1)
        for number, worker in enumerate(workers, 1)
    }


def _range(images: tuple[int, ...]) -> str:
    """Return positions as text: "4", "0-3" if they are consecutive, else "0,3,6"."""
    if len(images) > 1 and images == tuple(range(images[0], images[-1] + 1)):
        return f"{images[0]}-{images[-1]}"
    return ",".join(map(str, images))


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"
