"""Write the results as JSON and as Markdown tables."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.measure import Table
from benchmarks.settings import Settings
from ray_segformer.comparison import processor_name

_PACKAGES = ("torch", "transformers", "ray", "openvino", "numba", "numpy", "pillow")


class Report:
    """Writes `results.json` and `results.md` to a folder, after each section.

    Attributes:
        content: the content of `results.json`: `machine`, `versions`, `settings`, and `sections` by name, each with its
            `seconds`, `disturbed` and `tables`.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        folder.mkdir(parents=True, exist_ok=True)  # now: a folder that cannot be made would lose the first section
        self._folder = folder
        self.content: dict[str, Any] = {
            "machine": machine(settings.threads),
            "versions": versions(),
            "settings": {"repeats": settings.repeats, "quick": settings.quick},
            "sections": {},
        }
        print(self._heading())

    def add(self, section: str, tables: list[Table], seconds: float, disturbed: float | None) -> None:
        """Print a section's tables, and write everything so far.

        Args:
            section: the name of the section.
            tables: its tables.
            seconds: how long it took.
            disturbed: the share of its runs before which the machine was busy with something else; None without runs.
        """
        if disturbed:
            tables[0].notes.append(f"Before {disturbed:.0%} of these runs, something else kept the machine busy.")
        self.content["sections"][section] = {
            "seconds": seconds,
            "disturbed": disturbed,
            "tables": [dataclasses.asdict(table) for table in tables],
        }
        for table in tables:
            print(markdown(dataclasses.asdict(table)))
        (self._folder / "results.json").write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        tables_so_far = [table for done in self.content["sections"].values() for table in done["tables"]]
        text = "\n".join([self._heading(), *map(markdown, tables_so_far)])
        (self._folder / "results.md").write_text(text, encoding="utf-8")

    def _heading(self) -> str:
        machine, packages = self.content["machine"], self.content["versions"]
        lines = [
            "# Benchmarks",
            "",
            f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, {machine['memory_gb']:.0f} GB, "
            f"{machine['system']}; " + ", ".join(f"{name} {version}" for name, version in packages.items()) + ".",
            "",
            "Medians; a ratio above 1 is better than the peer's. 'by round' is the median of the rounds' ratios.",
        ]
        if self.content["settings"]["quick"]:
            lines.append("**A quick run, with sizes too small to quote.**")
        return "\n".join([*lines, ""])


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine: processor, cores, threads that are used, memory and system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": memory / 2**30,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def markdown(table: dict[str, Any]) -> str:
    """Return a table as Markdown, aligned so that it is also readable as text."""
    keys = list(table["columns"])
    cells = [[table["columns"][key] for key in keys]]
    cells += [[_text(key, row.get(key)) for key in keys] for row in table["rows"]]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(keys))]
    numeric = [any(isinstance(row.get(key), (int, float)) for row in table["rows"]) for key in keys]

    def line(row: list[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    lines = [f"## {table['title']}", "", line(cells[0]), line(rule), *map(line, cells[1:]), ""]
    return "\n".join([*lines, *(f"* {note}" for note in table["notes"]), *([""] if table["notes"] else [])])


def _text(key: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    if key in ("equal", "cost"):
        return f"{value:.4%}" if key == "equal" else f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
