"""The report of a comparison: one self-contained HTML page with a table, timelines and a gallery."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.architectures import Event, Timeline
from ray_segformer.reports import count, escape, html_page, is_small, layers, percent, swatch
from ray_segformer.viz import class_areas, class_palette

_MAX_WIDTH = 800  # pixels of a picture in the page


@dataclass(frozen=True)
class GalleryImage:
    """An image and its mask.

    Attributes:
        name: the heading of the image.
        image: uint8 `(H, W, 3)`, RGB.
        segmentation: class ids `(H, W)`, any integer dtype.
    """

    name: str
    image: npt.NDArray[np.uint8]
    segmentation: npt.NDArray[Any]


def render_report(comparison: dict[str, Any], gallery: Sequence[GalleryImage], id2label: Mapping[int, str]) -> str:
    """Return a comparison as an HTML page that loads no other files.

    Args:
        comparison: the content of `comparison.json`. The page keeps its order of architectures.
        gallery: images and their masks.
        id2label: class names by class id. Pixels with other ids are transparent.

    Returns:
        HTML, to be written as UTF-8.

    Raises:
        ValueError: an image and its mask differ in size, or a mask has more than 256 different ids.
    """
    palette = class_palette(id2label)
    pictures = [_picture(number, picture, palette, id2label) for number, picture in enumerate(gallery)]
    return html_page(
        resources.files(__package__).joinpath("report.html").read_text("utf-8"),
        summary=_summary(comparison),
        equal="All masks are equal, pixel for pixel." if comparison["masks_equal"] else "Not all masks are equal.",
        table=_table(comparison["architectures"]),
        timelines=_timelines(comparison["architectures"]),
        gallery="\n".join(pictures) or "<p>No images.</p>",
    )


def _summary(comparison: Mapping[str, Any]) -> str:
    machine = comparison["machine"]
    gpus = count(machine["gpus"], "GPU") if machine["gpus"] else "no GPU"
    uneven = (
        "; the images have very different sizes, and one worker of each run on Ray is slow"
        if comparison["uneven"]
        else ""
    )
    return escape(
        f"{count(comparison['images'], 'image')} of {comparison['input']}, segmented by the model "
        f"{comparison['model']} with {count(comparison['workers'], 'worker')} and batches of "
        f"{comparison['batch_size']}, on {machine['processor']} ({count(machine['cpus'], 'CPU')}, {gpus}, "
        f"{count(machine['nodes'], 'node')}; Ray {machine['ray']}, torch {machine['torch']}, "
        f"ray_segformer {machine['ray_segformer']}){uneven}."
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f} s"


# Heading, key, format, and the function that chooses the best value.
_COLUMNS: tuple[tuple[str, str, Callable[[Any], str], Callable[[Sequence[Any]], Any]], ...] = (
    ("Images per second", "images_per_second", "{:,.1f}".format, max),
    ("Time to first mask", "seconds_to_first_mask", _seconds, min),
    ("Model loads", "loads", "{:,}".format, min),
    ("Load time, all workers", "load_seconds", _seconds, min),
    ("Workers busy", "busy_share", "{:.0%}".format, max),
    ("Peak memory, all processes", "peak_memory_mb", "{:,.0f} MB".format, min),
)


def _table(results: Mapping[str, Any]) -> str:
    """Return the head and the body of the table.

    The roles are explicit, because browsers drop them if the style of a narrow page shows rows as cards.
    """
    finished = [result for result in results.values() if "error" not in result]
    best = {}  # Formatted texts, not numbers, so that all cells with the same text are marked.
    for _, key, text, choose in _COLUMNS:
        if len({text(result[key]) for result in finished}) > 1:
            best[key] = text(choose([result[key] for result in finished]))
    headings = ["Architecture", *(heading for heading, *_ in _COLUMNS), "Masks"]
    head = "".join(f'<th scope="col"{" class=number" if 0 < i < 7 else ""}>{h}</th>' for i, h in enumerate(headings))
    rows = []
    for name, result in results.items():
        if "error" in result:
            workers = ""
            cells = f'<td role="cell" colspan="7" class="error">Failed: {escape(result["error"])}</td>'
        else:
            workers = f" <small>{count(result['workers'], 'worker')}</small>"
            differ = f"{result['different_pixels']:,} of {result['pixels']:,} pixels differ"
            cells = "".join(_cell(heading, text(result[key]), best.get(key)) for heading, key, text, _ in _COLUMNS)
            cells += f'<td role="cell" data-heading="Masks">{differ if result["different_pixels"] else "equal"}</td>'
        rows.append(f'<tr role="row"><th scope="row" role="rowheader">{escape(name)}{workers}</th>{cells}</tr>')
    return f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n<tbody role="rowgroup">{"".join(rows)}</tbody>'


def _cell(heading: str, text: str, best: str | None) -> str:
    mark = '<span aria-hidden="true">★ </span><span class="hidden">best: </span>' if text == best else ""
    kind = "number best" if text == best else "number"
    return f'<td role="cell" class="{kind}" data-heading="{heading}"><span>{mark}{text}</span></td>'


def _timelines(results: Mapping[str, Any]) -> str:
    runs = {name: Timeline.from_dict(result["timeline"]) for name, result in results.items() if "error" not in result}
    longest = max((timeline.seconds for timeline in runs.values()), default=0) or 1.0
    figures = [_figure(name, timeline, longest) for name, timeline in runs.items()]
    return "\n".join(figures) or "<p>No run has finished.</p>"


def _figure(name: str, timeline: Timeline, longest: float) -> str:
    """Return the timeline of one run. The full width is `longest` seconds."""
    percent = 100 / longest
    workers, lanes = {worker: f"worker {i}" for i, worker in enumerate(timeline.workers, 1)}, []
    for worker, label in workers.items():
        bars, batches = [f'<span class="idle" style="left:0;width:{timeline.seconds * percent:.4f}%"></span>'], 0
        for event in timeline.events:
            if event.worker != worker:
                continue
            start = event.start - timeline.start
            kind = "predict next" if event.kind == "predict" and batches % 2 else event.kind
            batches += event.kind == "predict"
            title = f"{event.kind} {_images(event)}, {_seconds(event.seconds)} from {_seconds(start)}"
            place = f"left:{start * percent:.4f}%;width:{event.seconds * percent:.4f}%"
            bars.append(f'<span class="bar {kind}" role="img" title="{title}" style="{place}"></span>')
        lanes.append(
            f'<div class="row"><span>{label}</span>'
            f'<div class="lane" role="group" aria-label="{label}">{"".join(bars)}</div></div>'
        )
    table = (
        f'<tr><td>{workers[event.worker]}</td><td>{event.kind}</td><td>{_images(event)}</td><td class="number">'
        f'{_seconds(event.start - timeline.start)}</td><td class="number">{_seconds(event.seconds)}</td></tr>'
        for event in timeline.events
    )
    step = _step(longest)
    steps = [i * step for i in range(math.floor(longest / step + 1e-9) + 1)]
    ticks = "".join(f'<span style="left:{second * percent:.4f}%">{second:,g} s</span>' for second in steps)
    name, run = escape(name), f"{_seconds(timeline.seconds)}, {count(len(workers), 'worker')}"
    return f"""<figure class="card timeline" style="--step:{step * percent:.4f}%">
<figcaption><h3>{name}</h3><span class="quiet">{run}</span></figcaption>
{chr(10).join(lanes)}
<div class="row" aria-hidden="true"><span></span><div class="axis">{ticks}</div></div>
<details><summary>{count(len(timeline.events), "event")}<span class="hidden"> of {name}</span></summary>
<div class="scroll" tabindex="0" role="region" aria-label="Events of {name}"><table>
<thead><tr><th scope="col">Worker</th><th scope="col">Event</th><th scope="col">Images</th>
<th scope="col" class="number">Start</th><th scope="col" class="number">Duration</th></tr></thead>
<tbody>{chr(10).join(table)}</tbody></table></div></details>
</figure>"""


def _images(event: Event) -> str:
    """Return what an event worked on: "model", or the positions of its images, such as "images 0-3, 7"."""
    if event.kind == "load":
        return "model"
    runs: list[list[int]] = []
    for position in event.images:
        if runs and position == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], position]
        else:
            runs.append([position])
    return ("image " if len(event.images) == 1 else "images ") + ", ".join("-".join(map(str, run)) for run in runs)


def _step(seconds: float) -> float:
    """Return the smallest of ..., 0.1, 0.2, 0.5, 1, 2, 5, ... that divides `seconds` into at most six parts."""
    power = 10.0 ** math.floor(math.log10(seconds / 6))
    return next(factor * power for factor in (1, 2, 5, 10) if seconds <= 6 * factor * power)


def _picture(number: int, picture: GalleryImage, palette: npt.NDArray[np.uint8], id2label: Mapping[int, str]) -> str:
    shown = layers(picture.name, picture.image, picture.segmentation, palette, id2label, _MAX_WIDTH)
    large, small = list[str](), list[str]()
    for class_id, share in class_areas(picture.segmentation, id2label).items():
        item = (
            f'<li>{swatch(palette[class_id])}<span class="name">{escape(id2label[class_id])}</span> '
            f'<span class="area">{percent(share)}</span></li>'
        )
        (small if is_small(share) else large).append(item)
    legend = f'<ul class="legend">{"".join(large)}</ul>'
    if small:
        rest = f'<ul class="legend">{"".join(small)}</ul>'
        legend += f"<details><summary>and {len(small)} smaller</summary>{rest}</details>"
    name, slider = escape(picture.name), f"slider-{number}"
    return f"""<figure class="card">
<div class="stack">
<img src="{shown.photo}" alt="{name}"><img class="overlay" src="{shown.mask}" alt="The classes of {name}, in colours">
</div>
<figcaption><h3>{name}</h3>
<div class="slider"><label for="{slider}">Mask<span class="hidden"> over {name}, in percent</span></label>
<input type="range" id="{slider}" min="0" max="100" value="50"><output for="{slider}">50%</output></div>
{legend}</figcaption>
</figure>"""
