"""Draw memory and throughput over a job: `streaming.png` and `soak.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.streaming import CURVES

_BLUE, _GREY, _RED = "#1f77b4", "#9aa5b1", "#c0392b"
# Throughput is averaged over `_WINDOWS` parts of a job, but over no less than `_WINDOW` seconds, to see some batches.
_WINDOWS, _WINDOW = 60, 5


def draw_memory(results: dict[str, Any], folder: Path) -> list[str]:
    """Draw those of the two sections that are in `results` (see `Report.content`). Return the file names."""
    drawn = []
    for section, draw in (("streaming", _draw_streaming), ("soak", _draw_soak)):
        if section in results["sections"]:
            figure = draw(results["sections"][section]["tables"][0]["rows"])
            figure.savefig(folder / f"{section}.png", dpi=200)
            drawn.append(f"{section}.png")
    return drawn


def _draw_streaming(rows: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    samples = rows[0]["samples"]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axis = figure.subplots()
    for key, name in CURVES.items():
        style = "--" if key == "spilled" else "-"
        axis.plot([s["rows"] for s in samples], [s[key] for s in samples], style, linewidth=1.3, label=name)
    _finish(axis, "Memory of a job whose dataset is far larger than the object store", "images done", "MB")
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_soak(rows: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    rates, memory = figure.subplots(2, 1, sharex=True)
    for row, colour in zip(rows, (_GREY, _BLUE), strict=True):
        seconds = np.array([sample["seconds"] for sample in row["samples"]]) / 60
        done = np.array([sample["rows"] for sample in row["samples"]])
        edges = np.linspace(0, seconds[-1], max(2, min(_WINDOWS, round(seconds[-1] * 60 / _WINDOW))) + 1)
        rate = np.diff(np.interp(edges, seconds, done)) / np.diff(edges) / 60
        rates.stairs(rate, edges, color=colour, label=row["name"])
        for kind, style in (("scoring", "-"), ("driver", ":")):
            label = f"{row['name']}: " + {"scoring": "largest scoring worker", "driver": "driver"}[kind]
            memory.plot(seconds, [s[kind] for s in row["samples"]], style, color=colour, linewidth=1.2, label=label)
        for axis in (rates, memory):
            for kill in row["kills"]:
                axis.axvline(kill / 60, color=_RED, linewidth=0.6, alpha=0.6)
    _finish(rates, "Throughput; red: a worker is killed", "", "images/s")
    _finish(memory, "Memory", "minutes", "MB")
    for axis in (rates, memory):
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _finish(axis: Any, title: str, x: str, y: str) -> None:
    axis.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
