"""`ray-segformer compare`: run the six architectures on the same images, and write timelines and a report."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ray_segformer.commands._protocol import add_protocol_options, protocol_of
from ray_segformer.commands.common import (
    EXIT_FAILURES,
    EXIT_USAGE,
    HelpFormatter,
    add_exclude,
    add_max_pixels,
    checkpoint_of,
    counted,
    example,
    fail,
    not_negative,
    positive,
    printable,
)

# The names in `ray_segformer.architectures.ARCHITECTURES`. Importing that imports Ray, which is too slow for --help.
_ARCHITECTURES = ("sequential", "tasks", "actors", "actor_pool", "dataset", "batch_predictor")

_GALLERY_IMAGES = 12  # in the report

# The share of pixels that may differ between architectures: where two classes tie, the order of additions decides.
_MAX_DIFFERENT = 1e-4

_COLUMN_WIDTHS = (11, 12, 7, 10, 8, 10, 9)


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    compare = commands.add_parser(
        "compare",
        help="run the six architectures on the same images, and report their speed and timelines",
        description="Segment the same images with each architecture. Prints a table, and writes timelines and a report "
        "to open in a browser. Each architecture runs in its own process and starts its own Ray; on the cluster that "
        "RAY_ADDRESS names, it runs as its own job.",
        epilog=example("compare photos/ compared/ --model nvidia/segformer-b0-finetuned-ade-512-512 --images 100"),
        formatter_class=HelpFormatter,
    )
    compare.add_argument("input", metavar="INPUT", help="as for predict")
    compare.add_argument(
        "output", metavar="OUTPUT", help="the folder to make, with report.html, timelines.png and comparison.json"
    )
    compare.add_argument("--model", default="demo", help="as for predict")
    compare.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    read = compare.add_argument_group("what is read")
    read.add_argument(
        "--images", type=positive, default=48, metavar="N", help="the number of images: the first N of the input"
    )
    add_exclude(read)
    add_max_pixels(read)
    add_protocol_options(compare)
    work = compare.add_argument_group("architectures and their workers")
    work.add_argument(
        "--architectures",
        nargs="+",
        choices=_ARCHITECTURES,
        metavar="NAME",
        help=f"the architectures to run: some of {', '.join(_ARCHITECTURES)} (default: all)",
    )
    work.add_argument(
        "--workers", type=positive, default=2, metavar="N", help="workers of each architecture except sequential"
    )
    work.add_argument(
        "--gpus-per-worker", type=not_negative, default=0.0, metavar="X", help="GPUs that each worker reserves"
    )
    work.add_argument("--batch-size", type=positive, default=4, metavar="N", help="images predicted at once")
    work.add_argument(
        "--uneven",
        action="store_true",
        help="scale images to very different sizes, and slow down one worker, so that scheduling matters",
    )
    compare.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from ray_segformer._guesses import say
    from ray_segformer.architectures import Timeline
    from ray_segformer.comparison import GalleryImage, Settings, compare, describe_machine, render_report, uneven
    from ray_segformer.images import MAX_PIXELS, ImageError, encode, public_uri, to_rgb
    from ray_segformer.inputs import InputError, find_images, readable
    from ray_segformer.outputs import OutputError, OutputFolder
    from ray_segformer.pretrained import CheckpointError
    from ray_segformer.protocol import resized
    from ray_segformer.viz import draw_timelines

    names = list(dict.fromkeys(arguments.architectures or _ARCHITECTURES))
    max_pixels = arguments.max_pixels or MAX_PIXELS
    try:
        protocol = protocol_of(arguments)
        folder = OutputFolder(
            arguments.output, source=arguments.input, overwrite=arguments.overwrite, summary_name="comparison.json"
        )
        found = find_images(arguments.input, exclude=arguments.exclude or ())
        say(found.guesses)
        checkpoint = checkpoint_of(arguments.model)
        if checkpoint.content.num_labels == 1:
            raise ValueError(
                f"{arguments.model} has one class: all pixels of its masks are 0, so there is no difference"
            )
        protocol.check_window(checkpoint.content.smallest_side)
        rows = found.take(arguments.images)
        cells, preprocessor = [row["image"] for row in rows], checkpoint.get_preprocessor()
        for row in rows:  # an image that cannot be read must not fail six runs, one after the other
            try:
                size = to_rgb(row["image"], max_pixels).shape[:2]
                shown = resized(protocol.resize_of_image, preprocessor, *size)
                protocol.check_sides(shown, size, preprocessor, checkpoint.content.smallest_side)
            except ImageError as error:
                raise ImageError(f"{row['path']}: {error}") from error
        if arguments.uneven:
            cells = uneven(cells, max_pixels)
            max_pixels = MAX_PIXELS  # --max-pixels limits the user's images, not the ones that were scaled up here
    except (CheckpointError, ImageError, InputError, OutputError, OSError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    workers = counted(arguments.workers, "worker")
    print(f"{len(rows)} of {counted(found.rows, 'image')}, {workers}, batches of {arguments.batch_size}")
    settings = Settings(
        arguments.workers, arguments.batch_size, arguments.gpus_per_worker, arguments.uneven, max_pixels, protocol
    )
    try:
        with folder:  # its lease keeps others away while this takes minutes
            results, masks = compare(
                cells, checkpoint, names, settings, lambda name: print(f"{name} ...", file=sys.stderr)
            )
            done = {name: result for name, result in results.items() if "error" not in result}
            _print_comparison(results)
            if not done:
                return EXIT_FAILURES
            on_ray = [result for name, result in done.items() if name != "sequential"]  # which knows one machine alone
            last = (on_ray or [*done.values()])[-1]
            comparison = {
                "input": public_uri(readable(arguments.input)),
                "model": arguments.model,
                "images": len(rows),
                "workers": arguments.workers,
                "batch_size": arguments.batch_size,
                "uneven": arguments.uneven,
                "protocol": protocol.describe(checkpoint.get_preprocessor()),
                "masks_equal": not any(result["different_pixels"] for result in done.values()),
                "machine": {**describe_machine(), **{key: last[key] for key in ("nodes", "cpus", "gpus")}},
                "architectures": results,
                "warnings": [guess.as_json(len(rows)) for guess in (*checkpoint.content.guesses, *found.guesses)],
            }
            gallery = [
                GalleryImage(row["name"], to_rgb(cell, max_pixels), mask)
                for row, cell, mask in zip(rows[:_GALLERY_IMAGES], cells, masks, strict=False)
            ]
            timelines = {name: Timeline.from_dict(result["timeline"]) for name, result in done.items()}
            folder.begin()
            folder.write_file("report.html", render_report(comparison, gallery, checkpoint.id2label))
            folder.write_file("timelines.png", encode(draw_timelines(timelines), "PNG"))
            folder.finish(comparison, checkpoint.id2label)
    except OutputError as error:
        return fail(EXIT_USAGE, error)
    print(folder.storage.describe("report.html"))
    differ = [name for name, result in done.items() if result["different_pixels"] > _MAX_DIFFERENT * result["pixels"]]
    return EXIT_FAILURES if differ or len(done) < len(results) else 0


def _print_comparison(results: dict[str, Any]) -> None:
    titles = ("images/s", "first mask", "loads", "in", "busy", "memory", "masks")
    print(f"{'':<16}" + "".join(f"{title:>{width}}" for title, width in zip(titles, _COLUMN_WIDTHS, strict=True)))
    for name, result in results.items():
        if "error" in result:
            print(f"{name:<16}  failed: {printable(result['error'])}")
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
        print(f"{name:<16}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, _COLUMN_WIDTHS, strict=True)))
