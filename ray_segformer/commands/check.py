"""`ray-segformer check`: which problems a run would have, without running a network."""

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

from ray_segformer.commands._labels import add_label_options, labels_of, refuse_label_options
from ray_segformer.commands.common import (
    EXIT_FAILURES,
    EXIT_USAGE,
    MODEL_HELP,
    HelpFormatter,
    add_exclude,
    add_max_pixels,
    checkpoint_of,
    counted,
    example,
    fail,
    fail_by_line,
    fail_in_job,
    printable,
)

_MOST_CLASSES = 20
_WIDTH = 30  # of the first column
_TRAITS = {
    "exif_rotated": "of these, turned by EXIF",
    "deep": "of these, more than 8 bits",
    "several_frames": "of these, several frames",
}


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    check = commands.add_parser(
        "check",
        help="look at an input before a run",
        description="Read the images and annotations of an input, on Ray and without a network, and print what they "
        "are and which problems a run would have. Writes nothing. The exit code is 1 if there are findings.",
        epilog=example("check photos/ --model nvidia/segformer-b0-finetuned-ade-512-512"),
        formatter_class=HelpFormatter,
    )
    check.add_argument("input", metavar="INPUT", help="as for predict; or a dataset, as for evaluate")
    check.add_argument("--model", help=MODEL_HELP + "; its classes and its preprocessing are checked, too")
    check.add_argument(
        "--annotations", metavar="DIR", help="a folder of annotations that have the names of the images of INPUT"
    )
    add_exclude(check)
    add_label_options(check)
    check.add_argument(
        "--all", action="store_true", help="look at all images, not at about 1000 that are spread evenly"
    )
    add_max_pixels(check)
    check.add_argument("--json", action="store_true", help="print as JSON")
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from ray_segformer._guesses import SegformerWarning
    from ray_segformer.images import MAX_PIXELS, public_uri
    from ray_segformer.inputs import AnnotatedInput, InputError, find_input, readable
    from ray_segformer.jobs import CHECKED_ROWS, ResourceError, check, check_nodes, start_ray
    from ray_segformer.pretrained import CheckpointError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SegformerWarning)  # the report has them
            checkpoint = checkpoint_of(arguments.model) if arguments.model is not None else None
        found = find_input(
            arguments.input,
            arguments.split,
            annotations=arguments.annotations,
            exclude=arguments.exclude or (),
            image_column=arguments.image_column,
            annotation_column=arguments.annotation_column,
        )
        reduced_in_layout = found.reduce_labels if isinstance(found, AnnotatedInput) else None
        labels = labels_of(arguments, checkpoint, reduced_in_layout)
        if not isinstance(found, AnnotatedInput):
            refuse_label_options(arguments)
    except (CheckpointError, InputError, OSError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    try:
        start_ray()
        check_nodes(None, found.file, with_gpus=False)
        report = check(
            found,
            labels,
            checkpoint,
            sample=None if arguments.all else CHECKED_ROWS,
            max_pixels=arguments.max_pixels or MAX_PIXELS,
            progress=True,
        )
    except ResourceError as error:  # it has a line for each node
        return fail_by_line(EXIT_USAGE, error)
    except Exception as error:
        return fail_in_job(error)
    report = {"input": public_uri(readable(arguments.input)), "model": arguments.model, **report}
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_lines(report)))
    return EXIT_FAILURES if report["findings"] else 0


def _lines(report: dict[str, Any]) -> list[str]:
    """Return a report of `check` as lines for people."""
    some = "" if report["looked_at"] >= report["rows"] else ", spread evenly (--all looks at all)"
    lines = [
        f"{printable(report['input'])}: looked at {report['looked_at']} of {counted(report['rows'], 'image')}{some}"
    ]
    lines += ["images", *_lines_of_files(report["images"])]
    lines += [_line(name, f"{size['height']} x {size['width']}") for name, size in report["images"]["sizes"].items()]
    lines += [f"  {printable(case['message'])}" for case in report["not_looked_at"]]
    if report["annotations"]:
        lines += ["annotations", *_lines_of_files(report["annotations"]), *_lines_of_classes(report["annotations"])]
    if report["preprocessing"]:
        lines += ["preprocessing", *_lines_of_preprocessing(report["preprocessing"])]
    lines.append("findings" if report["findings"] else "no findings")
    for finding in report["findings"]:
        path = f" [{finding['path']}]" if finding["path"] else ""
        lines.append(f"  {finding['code']}: {printable(finding['message'] + path)}")
    return lines


def _line(name: Any, value: Any, path: str | None = None) -> str:
    example = f"   {printable(path)}" if path else ""
    return f"  {printable(name):<{_WIDTH}.{_WIDTH}} {value:>12}{example}"


def _lines_of_files(files: dict[str, Any]) -> list[str]:
    lines = [_line(kind, count) for kind, count in files["kinds"].items()]
    lines += [_line(_TRAITS[trait], case["rows"], case["path"]) for trait, case in files["traits"].items()]
    return lines + [_line(cause, case["rows"], case["path"]) for cause, case in files["unreadable"].items()]


def _lines_of_classes(annotations: dict[str, Any]) -> list[str]:
    occurring = sorted(
        (entry for entry in annotations["classes"] if entry["pixels"]), key=lambda entry: -entry["pixels"]
    )
    lines = [
        _line(f"{entry['id']} {entry['name'] or ''}", f"{entry['share']:.2%}") for entry in occurring[:_MOST_CLASSES]
    ]
    if len(occurring) > _MOST_CLASSES:
        lines.append(f"  and {len(occurring) - _MOST_CLASSES} more classes (--json has all)")
    pixels = annotations["ignored_pixels"] + sum(entry["pixels"] for entry in occurring)
    return [*lines, _line("ignored", f"{annotations['ignored_pixels'] / pixels:.2%}")] if pixels else lines


def _lines_of_preprocessing(preprocessing: dict[str, Any]) -> list[str]:
    sizes = ", ".join(f"{name} {value}" for name, value in preprocessing["size"].items())
    lines = [_line("size", sizes if preprocessing["do_resize"] else "not resized")]
    for name in ("median", "most_squashed", "most_shrunk"):
        kept = preprocessing[name]
        if kept:
            lines.append(f"  {name.replace('_', ' ')}: {_sentence(kept)}")
    return lines


def _sentence(kept: dict[str, Any]) -> str:
    return (
        f"{kept['height']} x {kept['width']} becomes {kept['resized_height']} x {kept['resized_width']}: "
        f"{kept['rows']:.0%} of the rows, {kept['columns']:.0%} of the columns, aspect ratio changed by "
        f"{kept['aspect_change']:.2f}"
    )
