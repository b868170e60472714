"""`ray-segformer predict`: segment the images of an input, and write a folder of masks."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

from ray_segformer.commands._protocol import add_protocol_options, protocol_of
from ray_segformer.commands._scenes import add_scene_options, bands_of
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
    name_width,
    not_negative,
    positive,
    printable,
    probability,
)

_LARGEST = 10  # classes in the closing table


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    predict = commands.add_parser(
        "predict",
        help="segment images",
        description="Segment images. Runs on the Ray cluster that RAY_ADDRESS names; without it, starts Ray on this "
        "machine. The exit code is 1 if some images have no mask or the run failed, and 2 if an option is wrong.",
        epilog=example("predict photos/ segmented/ --model nvidia/segformer-b0-finetuned-ade-512-512 --overlay"),
        formatter_class=HelpFormatter,
    )
    predict.add_argument(
        "input",
        metavar="INPUT",
        help="a folder (searched recursively), a glob, a text file of paths, an image, a video, or parquet; local or a "
        "URI",
    )
    predict.add_argument(
        "output",
        metavar="OUTPUT",
        help="the folder to make, with masks/, classes.json and summary.json; a local path, or a URI such as s3://",
    )
    predict.add_argument("--model", default="demo", help=MODEL_HELP)
    predict.add_argument(
        "--foreground-threshold",
        type=probability,
        metavar="X",
        help="for a model of one class: the sigmoid above which a pixel is foreground, 1; without it, masks are all 0",
    )
    read = predict.add_argument_group("what is read")
    add_exclude(read)
    add_scene_options(read)
    read.add_argument("--every", type=positive, metavar="N", help="for videos: only the frames 0, N, 2 N and so on")
    add_max_pixels(read)
    read.add_argument(
        "--on-error",
        choices=("raise", "keep"),
        default="raise",
        help="raise: stop at an image that cannot be read; keep: keep its row, with the error and without a mask",
    )
    add_protocol_options(predict)
    written = predict.add_argument_group("what is written")
    written.add_argument("--format", choices=("parquet", "png"), default="parquet", help="the format of masks")
    written.add_argument(
        "--confidence",
        action="store_true",
        help="also write the probability of each pixel's class, as grey PNGs, where 255 is 1",
    )
    written.add_argument(
        "--overlay", action="store_true", help="also write overlays/, the images with their masks drawn over them"
    )
    written.add_argument(
        "--report", action="store_true", help="also write report.html, a page to look through, as the command report"
    )
    runs = predict.add_argument_group("interrupted runs, and earlier outputs")
    runs.add_argument(
        "--shard-rows",
        type=positive,
        default=1024,
        metavar="N",
        help="images in a shard, a file of rows; a run that ends early loses the images that are in no shard yet",
    )
    earlier = runs.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="delete an earlier output first")
    earlier.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run of the same options, if there is one; if it is finished, do what is missing",
    )
    workers = predict.add_argument_group("workers and their speed")
    workers.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="the most actors that predict (default: as many as the GPUs allow, else by CPUs and memory)",
    )
    workers.add_argument(
        "--gpus-per-worker", type=not_negative, default=0.0, metavar="X", help="GPUs that each actor reserves"
    )
    workers.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images predicted at once")
    workers.add_argument(
        "--runtime",
        choices=("auto", "eager", "compile", "openvino"),
        default="auto",
        help="what runs the network: torch (eager), torch.compile (compiles once on each machine), or OpenVINO; "
        "on CPUs, auto is eager at first, and compiles meanwhile if there are 1500 images of one size for each worker",
    )
    workers.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="the dtype of the network's arithmetic; auto is float32 on CPUs, and bfloat16, less exact, on GPUs",
    )
    predict.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from ray_segformer._guesses import Guess, SegformerWarning, say
    from ray_segformer._segmenter import check_foreground_threshold
    from ray_segformer.images import MAX_PIXELS, public_uri
    from ray_segformer.inputs import InputError, joined, readable
    from ray_segformer.jobs import ResourceError, failure_of, predict
    from ray_segformer.network import check_options
    from ray_segformer.outputs import OutputError, folder_of_shards
    from ray_segformer.pretrained import CheckpointError

    try:
        check_options(arguments.runtime, arguments.dtype, "cuda" if arguments.gpus_per_worker else "cpu")
        protocol, bands = protocol_of(arguments), bands_of(arguments)
        with warnings.catch_warnings():
            if arguments.foreground_threshold is not None:  # which the warning "one-class" asks for
                warnings.filterwarnings("ignore", "(?s).* has one class: ", SegformerWarning)
            checkpoint = checkpoint_of(arguments.model)
        check_foreground_threshold(arguments.foreground_threshold, checkpoint.content.num_labels)
        protocol.check_window(checkpoint.content.smallest_side)
    except (CheckpointError, OSError, RuntimeError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    try:
        summary = predict(
            arguments.input,
            arguments.output,
            checkpoint,
            exclude=arguments.exclude or (),
            bands=bands,
            every=arguments.every,
            mask_format=arguments.format,
            overlays=arguments.overlay,
            on_error=arguments.on_error,
            max_pixels=arguments.max_pixels or MAX_PIXELS,
            runtime=arguments.runtime,
            dtype=arguments.dtype,
            foreground_threshold=arguments.foreground_threshold,
            protocol=protocol,
            confidence=arguments.confidence,
            report=arguments.report,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            gpus_per_worker=arguments.gpus_per_worker,
            rows_per_shard=arguments.shard_rows,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
        )
    except ResourceError as error:  # it has a line for each node
        return fail_by_line(EXIT_USAGE, error)
    except (InputError, OutputError) as error:
        return fail(EXIT_USAGE, error)
    except KeyboardInterrupt:
        return fail(EXIT_FAILURES, "interrupted", _what_is_saved(arguments))
    except Exception as error:
        keep_hint = " (--on-error keep continues without it)" if failure_of(error).keepable else ""
        return fail_in_job(error, keep_hint + _what_is_saved(arguments))
    if arguments.model == "demo":
        message = "the packaged model knows only the scenes of `ray-segformer demo`; choose another with --model"
        say([Guess("packaged-model", message)])
    failed, causes = summary["failures"], summary["failures_by_cause"]
    if summary["resumed"]:
        print(f"done before: {counted(summary['resumed'], 'image')}")
    if summary["images"] > summary["resumed"]:
        print(f"{'stage':<24}{'seconds':>9}{'images':>10}   (seconds of all workers together)")
    for stage, spent in summary["stages"].items():
        print(f"{stage:<24}{spent['seconds']:>9.2f}{spent['rows']:>10.0f}")
    _print_classes(summary["classes"])
    if failed:
        counts = ", ".join(f"{count} {why}" for why, count in causes.items())
        rows = public_uri(readable(joined(arguments.output, folder_of_shards(arguments.format))))
        print(f"{failed} failed: {counts}. Path and error of each: {rows}")
    if arguments.report:
        print(public_uri(readable(joined(arguments.output, "report.html"))))
    speed = f", {summary['images_per_second']:.2f} images/s" if summary["images"] > summary["resumed"] else ""
    print(f"{counted(summary['images'], 'image')}, {failed} failed{speed}: {public_uri(readable(arguments.output))}")
    return EXIT_FAILURES if failed else 0


def _what_is_saved(arguments: argparse.Namespace) -> str:
    """Return the end of the error message: whether the run that ended early can be resumed."""
    from ray_segformer.outputs import MaskOutput, OutputError

    try:
        saved = MaskOutput(arguments.output).shards()
    except (OutputError, OSError):
        saved = []
    if saved:
        return "; --resume continues after the images that are done"
    shard = "for each image" if arguments.shard_rows == 1 else f"for each {arguments.shard_rows} images"
    return f"; no image is saved: results are written {shard} (--shard-rows)"


def _print_classes(classes: list[dict[str, Any]]) -> None:
    """Print the classes with the most pixels, as `summary.json` has them."""
    largest = sorted((each for each in classes if each["pixels"]), key=lambda each: -each["pixels"])
    shown = len(largest) if len(largest) == _LARGEST + 1 else _LARGEST  # one more takes no more room than its mention
    width = name_width(printable(each["name"]) for each in largest[:shown])
    if largest:
        print(f"{'class':<{width}}{'pixels':>9}{'images':>10}")
    for each in largest[:shown]:
        print(f"{printable(each['name']):<{width}}{100 * each['share']:>7.2f} %{each['images']:>10}")
    if len(largest) > shown:
        print(f"{len(largest) - shown} more classes are in summary.json")
