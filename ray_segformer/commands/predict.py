"""`ray-segformer predict`: a folder of images in, a folder of masks out."""

from __future__ import annotations

import argparse
from typing import Any

from ray_segformer.commands.common import (
    EXIT_FAILURES,
    EXIT_USAGE,
    add_max_pixels,
    cause,
    checkpoint_of,
    fail,
    image_error,
    not_negative,
    positive,
)

_GO_ON = "; --resume goes on from the images that are done"


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
    add_max_pixels(predict)
    predict.add_argument(
        "--shard-rows",
        type=positive,
        default=1024,
        metavar="N",
        help="images are committed so many at a time; what is lost by a kill is less",
    )
    again = predict.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    again.add_argument(
        "--resume", action="store_true", help="go on where an interrupted run of the same options was, if there was one"
    )
    predict.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from ray_segformer.checkpoint_directory import CheckpointError
    from ray_segformer.images import MAX_PIXELS
    from ray_segformer.inputs import InputError, readable
    from ray_segformer.jobs import OutputError, ResourceError, predict
    from ray_segformer.network import check_options

    try:
        check_options(arguments.runtime, arguments.dtype, "cuda" if arguments.gpus_per_worker else "cpu")
        checkpoint = checkpoint_of(arguments.model)
    except (CheckpointError, OSError, RuntimeError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    try:
        summary = predict(
            arguments.input,
            arguments.output,
            checkpoint,
            mask_format=arguments.format,
            overlays=arguments.overlay,
            on_error=arguments.on_error,
            max_pixels=arguments.max_pixels or MAX_PIXELS,
            runtime=arguments.runtime,
            dtype=arguments.dtype,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            gpus_per_worker=arguments.gpus_per_worker,
            rows_per_shard=arguments.shard_rows,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
        )
    except (InputError, OutputError, ResourceError) as error:
        return fail(EXIT_USAGE, error)
    except KeyboardInterrupt:
        return fail(EXIT_FAILURES, "interrupted", _GO_ON)
    except Exception as error:
        without = " (--on-error keep goes on without it)" if image_error(error) else ""
        return fail(EXIT_FAILURES, cause(error), without + _GO_ON)
    if arguments.model == "demo":
        print("The packaged model knows only the scenes of `ray-segformer demo`; name another with --model.")
    failed, causes = summary["failures"], summary["failures_by_cause"]
    if summary["resumed"]:
        print(f"{summary['resumed']} images were done before")
    for stage, spent in summary["stages"].items():
        print(f"{stage:<10}{spent['seconds']:>10.2f} s{spent['rows']:>12.0f} rows")
    if failed:
        print(f"{failed} failed: {', '.join(f'{count} {why}' for why, count in causes.items())}")
    speed = f", {summary['images_per_second']:.2f} images/s" if summary["images"] > summary["resumed"] else ""
    print(f"{summary['images']} images, {failed} failed{speed}: {readable(arguments.output)}")
    return EXIT_FAILURES if failed else 0
