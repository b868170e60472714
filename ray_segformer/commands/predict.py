"""`ray-segformer predict`: a folder of images in, a folder of masks out."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ray_segformer.commands.common import EXIT_FAILURES, EXIT_USAGE, cause, checkpoint_of, fail, not_negative, positive
from ray_segformer.commands.scoring import encoded_masks, resources_of, with_progress


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    predict = commands.add_parser(
        "predict",
        help="segment images",
        description="Segment images. RAY_ADDRESS names the cluster; without it, Ray starts on this machine.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    predict.add_argument(
        "input", metavar="INPUT", help="a folder (recursive), a glob, a list file, an image, or parquet; or a URI"
    )
    predict.add_argument("output", metavar="OUTPUT", help="the folder to make: masks/, classes.json, summary.json")
    predict.add_argument(
        "--model", default="demo", help="a directory, a name on the Hugging Face Hub, or the packaged demo"
    )
    predict.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images predicted at once")
    predict.add_argument(
        "--workers", type=positive, metavar="N", help="actors at most; by default as many as CPUs (or GPUs) allow"
    )
    predict.add_argument(
        "--gpus-per-worker", type=not_negative, default=0.0, metavar="X", help="GPUs that an actor reserves"
    )
    predict.add_argument(
        "--runtime",
        choices=("auto", "eager", "compile", "openvino"),
        default="auto",
        help="how the network is run: by torch, compiled by torch (once on a machine), or by OpenVINO",
    )
    predict.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="the network's arithmetic; auto is exact on CPUs, float32",
    )
    predict.add_argument("--format", choices=("parquet", "png"), default="parquet", help="what masks are written as")
    predict.add_argument("--overlay", action="store_true", help="also write overlays/, the images under their masks")
    predict.add_argument(
        "--on-error", choices=("raise", "keep"), default="raise", help="stop at an unreadable image, or keep its row"
    )
    predict.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    predict.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ray_segformer.content import CheckpointError
    from ray_segformer.network import check_options
    from ray_segformer.readers import InputError, find_images
    from ray_segformer.session import start_ray
    from ray_segformer.viz import class_palette
    from ray_segformer.writers import OutputError, OutputFolder

    try:
        check_options(arguments.runtime, arguments.dtype, "cuda" if arguments.gpus_per_worker else "cpu")
        folder = OutputFolder(arguments.output, arguments.format, arguments.overwrite)
        images = find_images(arguments.input)
        checkpoint = checkpoint_of(arguments.model)
        start_ray()
        resources = resources_of(arguments, images.rows)
    except (CheckpointError, InputError, OutputError, OSError, RuntimeError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    if arguments.model == "demo":
        print("The packaged model knows only the scenes of `ray-segformer demo`; name another with --model.")

    palette = class_palette(checkpoint.id2label) if arguments.overlay else None
    started = time.monotonic()
    failed = done = 0
    try:
        with folder:
            options = {"on_error": arguments.on_error, "runtime": arguments.runtime, "dtype": arguments.dtype}
            predictions = encoded_masks(images.dataset(), checkpoint, options, palette, resources)
            for row in with_progress(predictions, images.rows):
                folder.write(row)
                done += 1
                failed += row["error"] is not None
            seconds = time.monotonic() - started
            summary = {
                "images": done,
                "failures": failed,
                "images_per_second": round(done / seconds, 3),
                "seconds": round(seconds, 3),
                "input": arguments.input,
                "model": arguments.model,
                "format": arguments.format,
            }
            folder.finish(summary, checkpoint.id2label)
    except Exception as error:
        return fail(EXIT_FAILURES, cause(error), " (--on-error keep goes on without it)")
    print(f"{done} images, {failed} failed, {done / seconds:.2f} images/s: {folder.path}")
    return EXIT_FAILURES if failed else 0
