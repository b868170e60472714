"""Draw the figures of the design page as SVG: `python -m docs.tools.figures`."""

from __future__ import annotations

import ast
import io
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from docs.tools.svg import Drawing
from ray_segformer.demo import make_scene

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/figures"
HEIGHT, WIDTH, INPUT = 512, 683, 512  # of a photo, and of what the network sees, in pixels
LAYERS = ("The command, and what scripts import", "Work", "Around the plugin", "The plugin", "What all of it stands on")


def flow() -> str:
    """Draw the stages of a job: the columns of a row after each, the process, and the bytes."""
    image, mask = make_scene(seed=0, height=HEIGHT, width=WIDTH)
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=92)
    Image.fromarray(mask).save(png, "PNG")
    file, encoded = (f"{len(buffer.getvalue()) / 1000:,.0f} kB" for buffer in (jpeg, png))
    pixels = f"{np.prod((3, INPUT, INPUT)) / 1000:,.0f} kB"
    stages = [
        ("Read", "tasks, on CPUs", ["path", "image"], [f"the file: {file}"]),
        ("Preprocess", "tasks, on CPUs", ["pixel_values", "original_size"], [f"uint8: {pixels}", "8 bytes"]),
        ("Predict", "actors, CPUs or GPUs", ["segmentation"], [f"uint8: {HEIGHT * WIDTH / 1000:,.0f} kB"]),
        ("Encode", "tasks, on CPUs", ["segmentation", "class_ids, ..."], [f"a PNG: {encoded}"]),
        ("Write", "tasks, on CPUs", ["shard"], ["a row for each", "1024 images"]),
    ]
    drawing = Drawing(1000, 330, "The flow of a batch, from files to shards")
    for place, (name, process, columns, sizes) in enumerate(stages):
        x = 16 + place * 196
        kind = "actor" if process.startswith("actors") else "box"
        drawing.box(x, 70, 168, 150, kind)
        drawing.text(x + 12, 94, name, "title")
        drawing.text(x + 12, 112, process, "note")
        for line, column in enumerate(columns):
            drawing.text(x + 12, 140 + 18 * line, column, "code")
        for line, size in enumerate(sizes):
            drawing.text(x + 12, 186 + 16 * line, size, "note")
        if place:
            drawing.arrow(x - 28, 145, x - 3, 145)
    drawing.text(16, 36, f"One photo of {WIDTH} x {HEIGHT} pixels, with a model of {INPUT} x {INPUT}", "title")
    drawing.text(16, 54, "An arrow is Ray's object store. What stands in a box is in each row that leaves it.", "note")
    x = 16 + 2 * 196
    drawing.box(x, 258, 168, 52, "box")
    drawing.text(x + 12, 280, "Weights", "title")
    drawing.text(x + 12, 298, "B0: 15 MB for a node", "note")
    drawing.arrow(x + 84, 258, x + 84, 224)
    x = 16 + 4 * 196
    drawing.box(x, 258, 168, 52, "box")
    drawing.text(x + 12, 280, "Driver", "title")
    drawing.text(x + 12, 298, "sees no image", "note")
    drawing.arrow(x + 84, 222, x + 84, 254)
    return drawing.svg()


def rooms() -> str:
    """Draw the rooms of the package in the order that `tests/fast/test_rooms.py` enforces."""
    tree = ast.parse((ROOT / "tests/fast/test_rooms.py").read_text("utf-8"))
    value = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ROOMS"
    )
    layers = [ast.literal_eval(part.value) for part in value.elts]  # type: ignore[attr-defined]
    across, width, height = 6, 150, 82
    rows = [-(-len(layer) // across) for layer in layers]
    drawing = Drawing(1000, 20 + sum(34 + count * (height + 8) for count in rows), "The rooms of the package")
    y = 16
    for title, layer, count in zip(LAYERS, layers, rows, strict=True):
        drawing.text(16, y + 16, title, "title")
        for place, room in enumerate(layer):
            left, top = 16 + place % across * (width + 10), y + 26 + place // across * (height + 8)
            drawing.box(left, top, width, height, "box")
            drawing.text(left + 10, top + 20, room, "code")
            for line, words in enumerate(textwrap.wrap(_subject(room), 23, max_lines=3, placeholder="...")):
                drawing.text(left + 10, top + 38 + 14 * line, words, "small")
        y += 34 + count * (height + 8)
    drawing.arrow(984, 40, 984, y - 20)
    return drawing.svg()


def shard() -> str:
    """Draw the life of a shard, and what a death at each point costs."""
    drawing = Drawing(1000, 300, "The life of a shard")
    states = [
        ("In memory", ["up to 1024 rows", "of a task"], "its images are done again"),
        ("Being written", ["a file of another name,", "or an upload"], "its images are done again"),
        ("There", ["part-*.parquet, whole;", "it never changes"], "nothing: --resume skips its rows"),
        ("Counted", ["the driver knows it;", "summary.json is next"], "nothing: --resume finds and keeps it"),
        ("Finished", ["summary.json is there:", "no image is missing"], "nothing"),
    ]
    drawing.text(16, 36, "The life of a shard, and what it costs if a process dies there", "title")
    for place, (name, lines, cost) in enumerate(states):
        x = 16 + place * 196
        drawing.box(x, 64, 168, 92, "actor" if place >= 2 else "box")
        drawing.text(x + 12, 90, name, "title")
        for line, words in enumerate(lines):
            drawing.text(x + 12, 114 + 16 * line, words, "note")
        if place:
            drawing.arrow(x - 28, 110, x - 3, 110)
        drawing.arrow(x + 84, 162, x + 84, 196)
        for line, words in enumerate(textwrap.wrap(cost, 24)):
            drawing.text(x + 12, 216 + 16 * line, words, "note")
    drawing.text(16, 276, "Blue: an image is done when it is in such a file. Nothing else says so.", "note")
    return drawing.svg()


FIGURES: dict[str, Callable[[], str]] = {"flow.svg": flow, "rooms.svg": rooms, "shard.svg": shard}


def _subject(room: str) -> str:
    """Return what a room's docstring says first."""
    folder = ROOT / "ray_segformer" / room
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    first = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()[0].replace("`", "")
    subject = first.rstrip(".").split(": ")[-1].split(". ")[0]
    return subject[0].upper() + subject[1:]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, draw in FIGURES.items():
        (FOLDER / file_name).write_text(draw(), "utf-8")
        print(f"docs/figures/{file_name}")
