"""Draw the tables of the network, of files and of Ray as one picture, `benchmarks.png`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.process import KEPT

_COLOURS = {"peer": "#9aa5b1", "ours": "#1f77b4", "floor": "#c0392b"}
_TITLES = {
    "network": "Network: logits of a 512 x 512 photo",
    "files": "One process: JPEG files to masks",
    "ray": "Through Ray, all cores: JPEG files to masks",
}
_BAR, _MARGIN = 0.21, 0.75  # inches: the height of a row, and what a panel needs beside its rows


def draw(results: dict[str, Any], path: Path) -> list[str]:
    """Draw those sections of `results` (see `Report.content`) that have a panel. Return the file names."""
    panels = {name: results["sections"][name]["tables"][0]["rows"] for name in _TITLES if name in results["sections"]}
    if not panels:
        return []
    from matplotlib.figure import Figure

    shown = {name: [row for row in rows if _is_shown(row)] for name, rows in panels.items()}
    heights = [len(rows) * _BAR + _MARGIN for rows in shown.values()]
    figure = Figure(figsize=(9, sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, rows) in zip(axes, shown.items(), strict=True):
        _draw_panel(axis, _TITLES[name], rows, [row for row in panels[name] if row["side"] == "floor"])
    machine = results["machine"]
    figure.suptitle(
        f"SegFormer-B0, 150 classes, ms per image (shorter is better), {machine['threads']} cores of {machine['cpu']}\n"
        "In bold: times the speed of the panel's first row",
        fontsize=9,
    )
    figure.savefig(path, dpi=200)
    return [path.name]


def _is_shown(row: dict[str, Any]) -> bool:
    """Return whether a row gets a bar: no floor, no larger batches, none of ours with freed memory kept."""
    if row["side"] == "floor" or "four at a time" in row["name"]:
        return False
    return row["side"] == "peer" or KEPT not in row["name"]


def _draw_panel(axis: Any, title: str, rows: list[dict[str, Any]], floors: list[dict[str, Any]]) -> None:
    longest = max(row["ms"] for row in rows)
    for place, row in enumerate(rows):
        axis.barh(place, row["ms"], height=0.75, color=_COLOURS[row["side"]])
        text = axis.annotate(
            f"{row['ms']:.0f}", (row["ms"], place), (4, 0), textcoords="offset points", va="center", fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # covers the lines of the floor
        )  # fmt: skip
        if row["name"] != row["peer"]:
            axis.annotate(
                f"{row['ratio']:.1f}x", (1, 0.5), (6, 0), xycoords=text, textcoords="offset points", va="center",
                fontsize=8, fontweight="bold", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
    for floor, style in zip(floors, ("--", ":"), strict=False):
        axis.axvline(floor["ms"], color=_COLOURS["floor"], linestyle=style, linewidth=1.2, label=floor["name"])
    axis.bar(0, 0, color=_COLOURS["peer"], label="peers")
    axis.bar(0, 0, color=_COLOURS["ours"], label="ray_segformer")
    axis.legend(loc="lower right", fontsize=8, frameon=False)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, longest * 1.15)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_title(title, loc="left", fontsize=9, fontweight="bold")
