"""`ray-segformer compare`: the six architectures on the same images, as a table, timelines and a report."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ray_segformer.commands.common import (
    EXIT_FAILURES,
    EXIT_USAGE,
    add_max_pixels,
    cause,
    checkpoint_of,
    fail,
    not_negative,
    positive,
)

# Those of ray_segformer.architectures, which imports Ray: too slow for --help.
_ARCHITECTURES = ("sequential", "tasks", "actors", "actor_pool", "dataset", "batch_predictor")
_GALLERY = 12  # images in a report
_TOLERATED = 1e-4  # of the pixels may be ties that another order of additions decides otherwise
_WIDTHS = (11, 12, 7, 10, 8, 10, 9)  # of the table's columns


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    compare = commands.add_parser(
        "compare",
        help="run the six architectures on the same images, and draw who did what when",
        description="Segment the same images in each architecture, in a process and on a Ray of its own (or, on the "
        "cluster that RAY_ADDRESS names, as a job): a table, timelines and a report to open in a browser.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    compare.add_argument("input", metavar="INPUT", help="as for predict")
    compare.add_argument(
        "output", metavar="OUTPUT", help="the folder to make: report.html, timelines.png, comparison.json"
    )
    compare.add_argument(
        "--architectures",
        nargs="+",
        choices=_ARCHITECTURES,
        default=list(_ARCHITECTURES),
        metavar="NAME",
        help=f"some of {', '.join(_ARCHITECTURES)}",
    )
    compare.add_argument("--model", default="demo", help="as for predict")
    compare.add_argument("--images", type=positive, default=48, metavar="N", help="of the input, the first N")
    compare.add_argument("--workers", type=positive, default=2, metavar="N", help="of each but sequential")
    compare.add_argument("--batch-size", type=positive, default=4, metavar="N", help="images predicted at once")
    compare.add_argument(
        "--gpus-per-worker", type=not_negative, default=0.0, metavar="X", help="GPUs that a worker reserves"
    )
    compare.add_argument(
        "--uneven",
        action="store_true",
        help="images scaled to very different sizes, and one worker that is slow: where scheduling matters",
    )
    add_max_pixels(compare)
    compare.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    compare.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ray_segformer.architectures import Timeline
    from ray_segformer.checkpoint_directory import CheckpointError
    from ray_segformer.comparison import GalleryImage, Settings, compare, describe_machine, render_report, uneven
    from ray_segformer.images import MAX_PIXELS, ImageError, encode, to_rgb
    from ray_segformer.inputs import InputError, find_images
    from ray_segformer.jobs import OutputError, OutputFolder
    from ray_segformer.viz import draw_timelines

    names = list(dict.fromkeys(arguments.architectures))
    max_pixels = arguments.max_pixels or MAX_PIXELS
    try:
        folder = OutputFolder(arguments.output, arguments.overwrite, "comparison.json")
        found = find_images(arguments.input)
        checkpoint = checkpoint_of(arguments.model)
        rows = found.take(arguments.images)
        cells = [row["image"] for row in rows]
        for row in rows:  # before six runs fail of it
            try:
                to_rgb(row["image"], max_pixels)
            except ImageError as error:
                raise ImageError(f"{row['path']}: {error}") from error
        if arguments.uneven:
            cells = uneven(cells, max_pixels)
            max_pixels = MAX_PIXELS  # what is larger than asked for now is our own
    except (CheckpointError, ImageError, InputError, OutputError, OSError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    print(f"{len(rows)} of {found.rows} images, {arguments.workers} workers, batches of {arguments.batch_size}")
    settings = Settings(
        arguments.workers, arguments.batch_size, arguments.gpus_per_worker, arguments.uneven, max_pixels
    )
    results, masks = compare(cells, checkpoint, names, settings, lambda name: print(f"{name} ...", file=sys.stderr))
    done = {name: result for name, result in results.items() if "error" not in result}
    _print_comparison(results)
    if not done:
        return EXIT_FAILURES
    *_, last = done.values()
    comparison = {
        "input": arguments.input,
        "model": arguments.model,
        "images": len(rows),
        "workers": arguments.workers,
        "batch_size": arguments.batch_size,
        "uneven": arguments.uneven,
        "masks_equal": not any(result["different_pixels"] for result in done.values()),
        "machine": {**describe_machine(), **{key: last[key] for key in ("nodes", "cpus", "gpus")}},
        "architectures": results,
    }
    gallery = [
        GalleryImage(row["name"], to_rgb(cell, max_pixels), mask)
        for row, cell, mask in zip(rows[:_GALLERY], cells, masks, strict=False)
    ]
    timelines = {name: Timeline.from_dict(result["timeline"]) for name, result in done.items()}
    with folder:
        folder.write_file("report.html", render_report(comparison, gallery, checkpoint.id2label))
        folder.write_file("timelines.png", encode(draw_timelines(timelines), "PNG"))
        folder.finish(comparison, checkpoint.id2label)
    print(f"{folder.path}/report.html")
    differ = [name for name, result in done.items() if result["different_pixels"] > _TOLERATED * result["pixels"]]
    return EXIT_FAILURES if differ or len(done) < len(results) else 0


def _print_comparison(results: dict[str, Any]) -> None:
    titles = ("images/s", "first mask", "loads", "in", "busy", "memory", "masks")
    print(f"{'':<16}" + "".join(f"{title:>{width}}" for title, width in zip(titles, _WIDTHS, strict=True)))
    for name, result in results.items():
        if "error" in result:
            print(f"{name:<16}  failed: {cause(RuntimeError(result['error']))}")
            continue
        cells = (
            f"{result['images_per_second']:.2f}",
            f"{result['seconds_to_first_mask']:.2f} s",
            f"{result['loads']}",
            f"{result['load_seconds']:.2f} s",
            f"{result['busy_share']:.0%}",
            f"{result['peak_memory_mb']:.0f} MB",
            f"{result['different_pixels']} pixels differ" if result["different_pixels"] else "equal",
        )
        print(f"{name:<16}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)))
