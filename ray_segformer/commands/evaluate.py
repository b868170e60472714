"""`ray-segformer evaluate`: score a model on annotated images."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator
from typing import Any

from ray_segformer.commands._labels import add_label_options, labels_of
from ray_segformer.commands._protocol import add_protocol_options, protocol_of
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
    positive,
    printable,
)


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score a model on annotated images",
        description="Score a model on annotated images: mIoU and accuracies over the whole dataset.",
        epilog=example("evaluate ADEChallengeData2016 --model nvidia/segformer-b0-finetuned-ade-512-512 --output out"),
        formatter_class=HelpFormatter,
    )
    evaluate.add_argument(
        "input",
        metavar="INPUT",
        help="the folder of ADE20K, Cityscapes or PASCAL VOC as downloaded, a folder with images/ and annotations/ (or "
        "masks/, labels/), parquet (a file or a folder), or a Hugging Face dataset that save_to_disk wrote",
    )
    evaluate.add_argument("--model", default="demo", help=MODEL_HELP)
    written = evaluate.add_argument_group("what is written")
    written.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="the folder to make, with evaluation.json, and pictures of the worst images and of confused classes",
    )
    written.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    read = evaluate.add_argument_group("what is read")
    add_exclude(read)
    add_label_options(read)
    add_max_pixels(read)
    add_protocol_options(evaluate)
    workers = evaluate.add_argument_group("workers")
    workers.add_argument("--workers", type=positive, default=2, metavar="N", help="the most actors that predict")
    workers.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images predicted at once")
    evaluate.set_defaults(run=run)


_OF_ANNOTATIONS = ("exclude", "split", "labels", "label_map", "ignore_index", "label_colors")  # options


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    from ray_segformer._guesses import say
    from ray_segformer.architectures import worker_resources
    from ray_segformer.images import MAX_PIXELS, ImageError, encode, public_uri
    from ray_segformer.inputs import InputError, find_annotated
    from ray_segformer.jobs import ENCODING_CPUS, ResourceError, check_nodes, evaluate, start_ray
    from ray_segformer.outputs import OutputError, OutputFolder
    from ray_segformer.pretrained import CheckpointError

    try:
        protocol = protocol_of(arguments)
        folder = OutputFolder(
            arguments.output, source=arguments.input, overwrite=arguments.overwrite, summary_name="evaluation.json"
        )
        checkpoint = checkpoint_of(arguments.model)
        if checkpoint.content.num_labels == 1:
            raise ValueError(f"{arguments.model} has one class: all pixels of its masks are 0, so there is no score")
        protocol.check_window(checkpoint.content.smallest_side)
        found = find_annotated(
            arguments.input,
            arguments.split,
            exclude=arguments.exclude or (),
            image_column=arguments.image_column,
            annotation_column=arguments.annotation_column,
        )
        labels = labels_of(arguments, checkpoint, found.reduce_labels)
        max_pixels = arguments.max_pixels or MAX_PIXELS
        say(found.guesses)
        labels.look(found.sample, max_pixels)
        start_ray()
        check_nodes(None, found.file, with_gpus=False)
        dataset = found.dataset()
    except ImageError as error:
        return fail(EXIT_FAILURES, error)
    except ResourceError as error:  # it has a line for each node
        return fail_by_line(EXIT_USAGE, error)
    except (CheckpointError, InputError, OutputError, OSError, ValueError) as error:
        return fail(EXIT_USAGE, error)
    resources = worker_resources(arguments.workers, None, 0, spare_cpus=1 + ENCODING_CPUS)
    how = {"workers": arguments.workers, "batch_size": arguments.batch_size, "max_pixels": max_pixels, **resources}
    started = time.monotonic()
    try:
        with folder:
            metrics, worst, images, guesses = evaluate(
                dataset, checkpoint, protocol, labels=labels, progress=True, **how
            )
            say(guesses)
            scores, names = metrics.compute(), checkpoint.id2label
            seconds = time.monotonic() - started
            sentence = _sentence(protocol, checkpoint)
            summary = {
                "input": public_uri(arguments.input),
                "model": arguments.model,
                "images": images,
                "protocol": {
                    **vars(protocol),
                    "description": sentence,
                    "reduce_labels": labels.reduce_labels,
                    "ignore_index": list(checkpoint.content.ignored_ids),
                },
                "options": {
                    name: public_uri(value) if name == "label_colors" and value else value
                    for name, value in vars(arguments).items()
                    if name in _OF_ANNOTATIONS
                },
                **{name: _number(scores[name]) for name in ("mean_iou", "mean_accuracy", "overall_accuracy")},
                "classes": _by_class(scores, names),
                "worst": [{"path": image.path, "accuracy": image.accuracy} for image in worst],
                "seconds": round(seconds, 3),
                "warnings": [
                    guess.as_json(images) for guess in (*checkpoint.content.guesses, *found.guesses, *guesses)
                ],
            }
            _print_scores(summary)  # first: they are not lost with an output that cannot be written
            print(f"{counted(images, 'image')}, {images / seconds:.2f} images/s; {sentence}")
            folder.begin()
            for name, picture in _pictures(metrics, worst, names, max_pixels):
                folder.write_file(name, encode(picture, "PNG"))
            folder.finish(summary, names)
    except (InputError, OutputError) as error:  # what only the count of all pixels shows; or what the storage says
        return fail(EXIT_USAGE, error)
    except Exception as error:
        return fail_in_job(error)
    print(folder.storage.shown)
    return 0


def _print_scores(summary: dict[str, Any]) -> None:
    """Print the scores of a summary as a table."""
    scores = [(printable(name), score) for name, score in summary["classes"].items() if score["iou"] is not None]
    width = name_width(name for name, _ in scores)
    print(f"{'class':<{width}}{'IoU':>9}{'accuracy':>10}")
    for name, score in scores:
        print(f"{name:<{width}}{_text(score['iou']):>9}{_text(score['accuracy']):>10}")
    print(f"{'mIoU':<{width}}{_text(summary['mean_iou']):>9}")
    print(f"{'mean accuracy':<{width}}{'':>9}{_text(summary['mean_accuracy']):>10}")
    print(f"{'overall accuracy':<{width}}{'':>9}{_text(summary['overall_accuracy']):>10}")


def _sentence(protocol: Any, checkpoint: Any) -> str:
    """Return how images were shown to the network, and what was scored."""
    sentence: str = protocol.describe(checkpoint.get_preprocessor()) + "; scored at the image's size"
    ignored = sorted(checkpoint.content.ignored_ids)
    if ignored != [255]:
        sentence += f"; annotated pixels of the class id {' or '.join(map(str, ignored))} are left out"
    return sentence


def _by_class(scores: dict[str, Any], names: dict[int, str]) -> dict[str, dict[str, float | None]]:
    """Return the scores by the name of the class, and its id where several have one name."""
    from ray_segformer._class_names import distinct_names

    shown = distinct_names(dict(sorted(names.items()))).values()
    return {
        name: {"iou": _number(iou), "accuracy": _number(accuracy)}
        for name, iou, accuracy in zip(shown, scores["per_category_iou"], scores["per_category_accuracy"], strict=True)
    }


def _pictures(metrics: Any, worst: list[Any], names: dict[int, str], max_pixels: int) -> Iterator[tuple[str, Any]]:
    """Yield the pictures of the worst images and of confused classes, if there are any, with their file names."""
    from ray_segformer.jobs import most_confused
    from ray_segformer.viz import draw_confusion, visualize_predictions

    if worst:
        sheet = visualize_predictions(
            [image.image for image in worst],
            [image.prediction for image in worst],
            names,
            annotations=[image.annotation for image in worst],
            names=[f"{os.path.basename(image.path)}   {image.accuracy:.1%} of pixels right" for image in worst],
            max_pixels=max_pixels,
        )
        yield "worst.png", sheet
    confused = most_confused(metrics)
    if confused:
        yield "confusion.png", draw_confusion(metrics.confusion, confused, names)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _text(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"
