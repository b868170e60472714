"""The command `ray-segformer`."""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

EXIT_FAILURES = 1  # the work was done, but not for every image, or it broke off
EXIT_USAGE = 2  # what was asked for cannot be done

_MAX_WORKERS = 8  # by default: every worker holds a copy of torch


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 1 when images failed, or 2 when it was asked for the impossible."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("ray-segformer: interrupted; nothing was left under the output's name", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ray-segformer", description="Batch semantic segmentation with SegFormer on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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
    predict.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="images predicted at once")
    predict.add_argument(
        "--workers", type=_positive, metavar="N", help="actors at most; by default as many as CPUs (or GPUs) allow"
    )
    predict.add_argument(
        "--gpus-per-worker", type=_not_negative, default=0.0, metavar="X", help="GPUs that an actor reserves"
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
    predict.set_defaults(run=_predict)

    demo = commands.add_parser(
        "demo",
        help="segment synthetic scenes and show the result",
        description="Make synthetic scenes, segment them with the packaged model, and draw a contact sheet.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("output", metavar="OUTPUT", nargs="?", default="out/demo", help="the folder to make")
    demo.add_argument("--scenes", type=_positive, default=24, metavar="N", help="how many")
    demo.add_argument("--seed", type=int, default=0, help="of the first scene; the model never saw 0 to 199")
    demo.set_defaults(run=_demo)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not (0 <= number < math.inf):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return number


def _predict(arguments: argparse.Namespace) -> int:
    from ray_segformer.content import CheckpointError
    from ray_segformer.network import check_options
    from ray_segformer.readers import InputError, find_images
    from ray_segformer.viz import make_palette
    from ray_segformer.writers import OutputError, OutputFolder

    try:
        check_options(arguments.runtime, arguments.dtype, "cuda" if arguments.gpus_per_worker else "cpu")
        folder = OutputFolder(arguments.output, arguments.format, arguments.overwrite)
        images = find_images(arguments.input)
        checkpoint = _checkpoint(arguments.model)
        _start_ray()
        resources = _resources(arguments, images.rows)
    except (CheckpointError, InputError, OutputError, OSError, RuntimeError, ValueError) as error:
        return _fail(EXIT_USAGE, error)
    if arguments.model == "demo":
        print("The packaged model knows only the scenes of `ray-segformer demo`; name another with --model.")

    palette = make_palette(len(checkpoint.id2label)) if arguments.overlay else None
    started = time.monotonic()
    failed = done = 0
    try:
        with folder:
            options = {"on_error": arguments.on_error, "runtime": arguments.runtime, "dtype": arguments.dtype}
            predictions = _masks(images.dataset(), checkpoint, options, palette, resources)
            for row in _with_progress(predictions, images.rows):
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
        return _fail(EXIT_FAILURES, _cause(error), " (--on-error keep goes on without it)")
    print(f"{done} images, {failed} failed, {done / seconds:.2f} images/s: {folder.path}")
    return EXIT_FAILURES if failed else 0


def _demo(arguments: argparse.Namespace) -> int:
    import numpy as np
    import ray
    from PIL import Image

    from ray_segformer.checkpoint import SegformerCheckpoint
    from ray_segformer.demo import CLASSES, PALETTE, write_scenes
    from ray_segformer.metrics import confusion_matrix, mean_iou, per_class_iou
    from ray_segformer.viz import contact_sheet, overlay
    from ray_segformer.writers import OutputError, OutputFolder

    try:
        folder = OutputFolder(arguments.output, "png", overwrite=True)
    except (OutputError, OSError) as error:
        return _fail(EXIT_USAGE, error)
    with folder:
        scenes = Path(folder.path + ".unfinished", "scenes")
        write_scenes(scenes, arguments.scenes, seed=arguments.seed, vary_size=True)
        _start_ray()
        checkpoint = SegformerCheckpoint.demo()
        paths = sorted((scenes / "images").iterdir())
        dataset = ray.data.from_items([{"path": str(p), "image": str(p), "name": p.stem} for p in paths])
        started = time.monotonic()
        resources = _resources(argparse.Namespace(batch_size=8, workers=None, gpus_per_worker=0), len(paths))
        confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        tiles, captions = [], []
        for row in _with_progress(_masks(dataset, checkpoint, {"on_error": "raise"}, PALETTE, resources), len(paths)):
            folder.write(row)
            image = np.asarray(Image.open(row["path"]))
            annotation = np.asarray(Image.open(scenes / "annotations" / f"{row['name']}.png"))
            prediction = np.asarray(Image.open(io.BytesIO(row["segmentation"])))
            own = confusion_matrix(prediction, annotation, len(CLASSES))
            confusion += own
            tiles.append([image, overlay(image, annotation, PALETTE), overlay(image, prediction, PALETTE)])
            captions.append(f"{row['name']}   {np.trace(own) / own.sum():.1%} of pixels right")
        seconds = time.monotonic() - started
        sheet = contact_sheet(
            tiles[:12],
            ["scene", "truth", "SegFormer"],
            captions=captions[:12],
            legend=dict(zip(CLASSES, PALETTE.tolist(), strict=True)),
            title=f"ray_segformer: {arguments.scenes} unseen synthetic scenes, mIoU {mean_iou(confusion):.3f}",
            tile_width=240,
            sheet_columns=2,
        )
        sheet.save(Path(folder.path + ".unfinished", "contact_sheet.png"))
        ious = dict(zip(CLASSES, per_class_iou(confusion).tolist(), strict=True))
        summary = {"images": len(paths), "failures": 0, "mean_iou": mean_iou(confusion), "iou": ious}
        folder.finish(summary, checkpoint.id2label)
    print(f"{'class':<12}{'IoU':>8}")
    for name, value in ious.items():
        print(f"{name:<12}{'absent' if math.isnan(value) else f'{value:.4f}':>8}")
    print(f"{'mean':<12}{mean_iou(confusion):>8.4f}")
    print(f"{len(paths)} scenes, {len(paths) / seconds:.2f} images/s: {folder.path}/contact_sheet.png")
    return 0


def _checkpoint(model: str) -> Any:
    from ray_segformer.checkpoint import SegformerCheckpoint

    return SegformerCheckpoint.demo() if model == "demo" else SegformerCheckpoint.from_pretrained(model)


def _start_ray() -> None:
    # Ray's own words are for its developers; what a user must know comes as an error or from this package.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.init(logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


def _resources(arguments: argparse.Namespace, rows: int) -> dict[str, Any]:
    """The resource arguments of `BatchPredictor.predict`."""
    import ray

    resources = {"batch_size": arguments.batch_size, "num_gpus_per_worker": arguments.gpus_per_worker}
    available = ray.cluster_resources()
    if arguments.gpus_per_worker > available.get("GPU", 0):
        raise OSError(
            f"--gpus-per-worker {arguments.gpus_per_worker:g}: the cluster has {available.get('GPU', 0):g} GPU(s)"
        )
    if arguments.workers is not None:
        return {**resources, "max_scoring_workers": arguments.workers}
    if arguments.gpus_per_worker > 0:
        return {**resources, "max_scoring_workers": int(available["GPU"] / arguments.gpus_per_worker)}
    cpus = max(int(available.get("CPU", 1)), 1)
    workers = min(cpus, _MAX_WORKERS, math.ceil(rows / arguments.batch_size))
    # One CPU a node stays free for reading and preprocessing.
    nodes = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    cpus_per_worker = min(1.0, math.floor(max(cpus - nodes, 0) / workers * 100) / 100)
    return {**resources, "max_scoring_workers": workers, "num_cpus_per_worker": cpus_per_worker}


def _masks(dataset: Any, checkpoint: Any, options: dict[str, Any], palette: Any, resources: dict[str, Any]) -> Any:
    """The rows of `EncodeMasks` for a dataset of `path`, `image` and `name`, as a lazy dataset.

    Args:
        options: of `SegformerPredictor`, with `on_error`.
        resources: of `BatchPredictor.predict`.
    """
    from ray_segformer.air import BatchPredictor, installed
    from ray_segformer.predictor import SegformerPredictor
    from ray_segformer.writers import EncodeMasks

    keep_columns = ["path", "name"]
    if palette is not None:  # the preprocessor takes the image away; what it was read from is small
        dataset = dataset.map_batches(_with_source, batch_format="pyarrow")
        keep_columns.append("source")
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, **options)
    if installed.HAS_AIR:
        predictor.set_preprocessor(checkpoint.get_preprocessor(on_error=options["on_error"]))
    predictions = predictor.predict(dataset, keep_columns=keep_columns, **resources)
    return predictions.map_batches(EncodeMasks(palette), batch_size=resources["batch_size"])


def _with_source(batch: Any) -> Any:
    return batch.append_column("source", batch.column("image"))


def _with_progress(dataset: Any, rows: int) -> Iterator[dict[str, Any]]:
    from tqdm import tqdm

    with tqdm(total=rows, unit=" images", file=sys.stderr, mininterval=0.5) as bar:
        for row in dataset.iter_rows():
            yield row
            bar.update()


def _cause(error: BaseException) -> str:
    """The line that says what was wrong, without Ray's account of where."""
    from ray_segformer.images import ImageError

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):  # causes come first in a traceback, what they caused last
        if line.startswith(("ray_segformer.images.ImageError:", "ImageError:")):
            return line.split("ImageError:", 1)[1].strip()
    if isinstance(error, ImageError):
        return str(error)
    return lines[-1] if lines else type(error).__name__


def _fail(code: int, error: Any, hint: str = "") -> int:
    print(f"ray-segformer: error: {' '.join(str(error).split())}{hint}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
