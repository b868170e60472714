"""The report of an output of `predict`: one self-contained HTML page with pictures, class areas, failures, times."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.images import Bands
from ray_segformer.outputs import MaskOutput
from ray_segformer.reports._page import count, escape, html_page, is_small, percent, swatch
from ray_segformer.reports._pictures import LEAST_CONFIDENT, RANDOM, Chosen, Picture
from ray_segformer.reports._survey import Survey
from ray_segformer.viz import class_palette

_LARGEST = 20  # Other classes are in a list that opens with a click.


def render_masks(
    output: MaskOutput, summary: Mapping[str, Any] | None, survey: Survey, chosen: Chosen, pictures: Sequence[Picture]
) -> str:
    """Return the report of an output as an HTML page that loads no other files.

    Args:
        output: the output.
        summary: the content of its `summary.json`; None if the run is not finished.
        survey: what all its rows say.
        chosen, pictures: the rows that are shown.

    Returns:
        HTML, to be written as UTF-8.
    """
    names, palette = output.id2label, class_palette(output.id2label)
    cards = [_card(number, picture, palette, names) for number, picture in enumerate(pictures)]
    return html_page(
        resources.files(__package__).joinpath("masks.html").read_text("utf-8"),
        title=escape(f"Masks of {output.options.get('input', output.storage.shown)}"),
        summary=escape(_summary(summary, survey)),
        notes=_notes(output, summary),
        gallery_note=_gallery_note(survey, chosen, pictures),
        choices=_choices(chosen, names),
        gallery="\n".join(cards) or "<p>No image has a mask.</p>",
        classes=_classes(survey, palette, names),
        failures=_failures(survey),
        stages=_stages(summary),
    )


def _summary(summary: Mapping[str, Any] | None, survey: Survey) -> str:
    failed = survey.causes.total()
    said = f"{count(survey.rows, 'image')}: {count(survey.rows - failed, 'mask')}, {count(failed, 'failure')}."
    return f"{said} Images as the network saw them: {summary['protocol']}." if summary else said


def _notes(output: MaskOutput, summary: Mapping[str, Any] | None) -> str:
    """Return what must be said before the rest, and the options of the run."""
    notes = []
    if summary is None:
        notes.append('<p class="card note">The run is not finished. These are its images so far.</p>')
    warnings = summary.get("warnings", []) if summary else []
    if warnings:
        items = "".join(f"<li>{escape(each['message'])}</li>" for each in warnings)
        notes.append(f"<details><summary>{count(len(warnings), 'warning')}</summary><ul>{items}</ul></details>")
    options = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value if isinstance(value, str) else json.dumps(value))}</dd>"
        for name, value in _readable_options(output, summary).items()
    )
    return "\n".join([*notes, f"<details><summary>Options of the run</summary><dl>{options}</dl></details>"])


def _readable_options(output: MaskOutput, summary: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of the run, with the name of the model for its digest, and bands as they are typed."""
    options = {**output.options, "model": (summary or {}).get("model", output.options.get("model"))}
    if "bands" in options:
        bands = Bands.of(options["bands"])
        options["bands"] = ",".join(map(str, bands.numbers))
        if bands.low is not None:
            options["range"] = f"{'percentile ' if bands.percentile else ''}{bands.low:g} {bands.high:g}"
    return options


def _gallery_note(survey: Survey, chosen: Chosen, pictures: Sequence[Picture]) -> str:
    """Return what is shown, and of what."""
    said = [f"{count(len(pictures), 'image')} of {survey.rows:,}."]
    occurring, exemplified = len(survey.areas.as_lists()[0]), len(survey.best())
    if exemplified < occurring:
        said.append(f"Of {occurring:,} classes, the {exemplified} with the most pixels have examples.")
    if chosen.confidence:
        said.append(f"The least confident are those of {len(chosen.confidence):,} that were looked at.")
    unread = sum(picture.layers is None or picture.layers.photo is None for picture in pictures)
    if unread:
        said.append(f"Of {unread:,}, the image could not be read again.")
    return " ".join(said)


def _choices(chosen: Chosen, names: Mapping[int, str]) -> str:
    """Return the options of the list that chooses a group of pictures."""
    sizes: dict[str, int] = {}
    for groups in chosen.groups.values():
        for group in groups:
            sizes[group] = sizes.get(group, 0) + 1
    options = [f'<option value="">All ({len(chosen.groups):,})</option>']
    for group, name in ((RANDOM, "Random sample"), (LEAST_CONFIDENT, "Least confident")):
        if group in sizes:
            selected = " selected" if group == RANDOM else ""
            options.append(f'<option value="{group}"{selected}>{name} ({sizes[group]})</option>')
    best = "".join(
        f'<option value="{class_id}">{escape(name)} ({sizes[str(class_id)]})</option>'
        for class_id, name in sorted(names.items(), key=lambda each: each[1].lower())
        if str(class_id) in sizes
    )
    return "\n".join([*options, *([f'<optgroup label="Best examples of">{best}</optgroup>'] if best else [])])


def _card(number: int, picture: Picture, palette: npt.NDArray[np.uint8], names: Mapping[int, str]) -> str:
    name, groups = escape(posixpath.basename(picture.path) or picture.path), escape(json.dumps(picture.groups))
    said = [f"mean confidence {percent(picture.confidence)}"] if picture.confidence is not None else []
    said += ["in the random sample"] if RANDOM in picture.groups else []
    said += ["among the least confident"] if LEAST_CONFIDENT in picture.groups else []
    best = [names[int(group)] for group in picture.groups if group not in (RANDOM, LEAST_CONFIDENT)]
    said += [f"a best example of {', '.join(best)}"] if best else []
    problem = f'<p class="error">{escape(picture.problem)}</p>\n' if picture.problem else ""
    return f"""<figure class="card" data-groups="{groups}">
{_stack(number, picture, name)}<figcaption><h3>{name}</h3>
<p class="quiet path">{escape(picture.path)}</p>
<p class="quiet">{escape("; ".join(said))}</p>
{problem}{_legend(picture, name, palette, names)}</figcaption>
</figure>"""


def _stack(number: int, picture: Picture, name: str) -> str:
    shown = picture.layers
    if shown is None:
        return ""
    ids = " ".join(map(str, shown.class_ids))
    mask = (
        f'<img class="mask" src="{shown.mask}" data-classes="{ids}" width="{shown.width}" height="{shown.height}" '
        f'alt="The classes of {name}, in colours">'
    )
    ratio = f"--ratio:{shown.width / shown.height:.4f}"
    if shown.photo is None:
        return f'<div class="stack" style="{ratio}">{mask}</div>\n'
    return f"""<div class="stack both" style="{ratio}">
<img src="{shown.photo}" width="{shown.width}" height="{shown.height}" alt="{name}">{mask}
<label class="hidden" for="slider-{number}">Mask of {name} from this percentage of the width on</label>
<input type="range" id="slider-{number}" min="0" max="100" value="50"><span class="boundary"></span>
</div>
"""


def _legend(picture: Picture, name: str, palette: npt.NDArray[np.uint8], names: Mapping[int, str]) -> str:
    large, small = list[str](), list[str]()
    for class_id, share in picture.areas.items():
        if class_id in names:
            button = _toggle(class_id, palette, names, f' <span class="area">{percent(share)}</span>')
            (small if is_small(share) else large).append(button)
    bar = '<div class="legend" role="toolbar" aria-label="Classes{} of {}">{}</div>'
    more = bar.format(" of less than 0.1%", name, "".join(small))
    return (bar.format("", name, "".join(large)) if large else "") + (
        f"<details><summary>and {len(small)} smaller</summary>{more}</details>" if small else ""
    )


def _toggle(class_id: int, palette: npt.NDArray[np.uint8], names: Mapping[int, str], more: str = "") -> str:
    """Return a button that shows or hides a class in all pictures."""
    return (
        f'<button type="button" data-class="{class_id}" aria-pressed="true">{swatch(palette[class_id])}'
        f'<span class="name">{escape(names[class_id])}</span>{more}</button>'
    )


def _classes(survey: Survey, palette: npt.NDArray[np.uint8], names: Mapping[int, str]) -> str:
    """Return the classes that occur, the largest first."""
    found = sorted(
        (each for each in survey.areas.as_json(dict(names)) if each["images"]), key=lambda each: -each["pixels"]
    )
    total = max(sum(each["pixels"] for each in found), 1)
    items = []
    for each in found:
        share, colour = each["pixels"] / total, palette[each["id"]]
        text = f"{percent(share)}, {count(each['images'], 'image')}"
        bar = _bar(each["pixels"] / found[0]["pixels"], f"rgb({colour[0]} {colour[1]} {colour[2]})")
        items.append(f"<li>{_toggle(each['id'], palette, names)}{bar}<span>{text}</span></li>")
    largest = "<p>Shares of the pixels of all masks, and how many images have the class.</p>"
    largest += f'<ul class="bars">{"".join(items[:_LARGEST])}</ul>'
    rest = items[_LARGEST:]
    if rest:
        largest += f'<details><summary>and {len(rest)} smaller</summary><ul class="bars">{"".join(rest)}</ul></details>'
    absent = len(names) - len(found)
    others = "1 other class of the model is" if absent == 1 else f"{absent:,} other classes of the model are"
    return largest + (f'<p class="quiet">{others} in no image.</p>' if absent else "")


def _failures(survey: Survey) -> str:
    """Return the causes of failures, each with a few examples."""
    if not survey.causes:
        return "<p>No image failed.</p>"
    causes = []
    for cause, number in survey.causes.most_common():
        examples = survey.failures[cause]
        items = "".join(f'<dt>{escape(path)}</dt><dd class="error">{escape(error)}</dd>' for path, error in examples)
        more = f'<p class="quiet">The first {len(examples)} of {number:,}.</p>' if number > len(examples) else ""
        causes.append(
            f"<details open><summary>{escape(cause)}: {count(number, 'image')} ({percent(number / survey.rows)})"
            f"</summary>{more}<dl>{items}</dl></details>"
        )
    return "\n".join(causes)


def _stages(summary: Mapping[str, Any] | None) -> str:
    """Return the time of the stages of the last run."""
    if summary is None:
        return "<p>The times are known when the run is finished.</p>"
    done = summary["images"] - summary["resumed"]
    said = f"The last run segmented {count(done, 'image')} in {summary['seconds']:,.1f} s"
    said += f": {summary['images_per_second']:,.2f} images a second." if done else "."
    longest = max((stage["seconds"] for stage in summary["stages"].values()), default=0) or 1
    items = "".join(
        f"<li><span>{escape(name)}</span>{_bar(stage['seconds'] / longest, 'var(--accent)')}"
        f"<span>{stage['seconds']:,.2f} s, {count(int(stage['rows']), 'row')}</span></li>"
        for name, stage in summary["stages"].items()
    )
    note = "The seconds of all workers are added up. Waiting is the time that predictors waited for their next batch."
    return f'<p>{said} {note}</p>\n<ul class="bars">{items}</ul>'


def _bar(share: float, colour: str) -> str:
    """Return a bar that takes a share of the width."""
    return f'<span class="bar"><span style="width:{100 * share:.2f}%;background:{colour}"></span></span>'
