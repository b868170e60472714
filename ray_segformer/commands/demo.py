"""`ray-segformer demo`: segment synthetic scenes with the packaged model, and draw the result."""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_segformer.commands.common import (
    EXIT_USAGE,
    HelpFormatter,
    counted,
    example,
    fail,
    fail_by_line,
    positive,
    seed,
)


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers `commands`."""
    demo = commands.add_parser(
        "demo",
        help="segment synthetic scenes and show the result",
        description="Make synthetic scenes, segment them with the packaged model, and draw a contact sheet.",
        epilog=example("demo out/demo"),
        formatter_class=HelpFormatter,
    )
    demo.add_argument("output", metavar="OUTPUT", nargs="?", default="out/demo", help="the folder to make")
    demo.add_argument("--scenes", type=positive, default=24, metavar="N", help="the number of scenes")
    demo.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="the seed of the first scene; the model was trained without those of 0 to 199",
    )
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    import numpy as np
    import ray
    from PIL import Image

    from ray_segformer.checkpoint import SegformerCheckpoint
    from ray_segformer.demo import CLASSES, PALETTE, write_scenes
    from ray_segformer.images import encode
    from ray_segformer.jobs import ResourceError, check_nodes, encoded_masks, resources_for, start_ray, with_progress
    from ray_segformer.metrics import confusion_matrix, mean_iou, per_class_iou
    from ray_segformer.outputs import LocalStorage, OutputError, OutputFolder, WriteShards
    from ray_segformer.viz import contact_sheet, overlay

    try:
        folder = OutputFolder(arguments.output, overwrite=True)
        if not isinstance(folder.storage, LocalStorage):
            raise OutputError(f"{folder.storage.shown}: scenes are drawn into a local folder; name one")
        earlier = folder.storage.entries()
        if any(not name.endswith(".json") for name in earlier) and "scenes" not in earlier:
            raise OutputError(f"{folder.storage.shown} is no earlier output of demo; name another folder")
        start_ray()
        check_nodes(None, None, with_gpus=False)
    except ResourceError as error:  # it has a line for each node
        return fail_by_line(EXIT_USAGE, error)
    except OutputError as error:
        return fail(EXIT_USAGE, error)
    with folder:
        folder.begin()
        scenes = Path(folder.storage.path, "scenes")
        write_scenes(scenes, arguments.scenes, seed=arguments.seed, vary_size=True)
        checkpoint = SegformerCheckpoint.demo()
        paths = sorted((scenes / "images").iterdir())
        dataset = ray.data.from_items(
            [
                {"path": str(path), "index": index, "image": str(path), "name": path.stem, "key": path.stem}
                for index, path in enumerate(paths)
            ]
        )
        started = time.monotonic()
        masks = encoded_masks(
            dataset, checkpoint, {"on_error": "raise"}, PALETTE, resources_for(len(paths), batch_size=8)
        )
        confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
        tiles: list[list[Any]] = []
        captions: list[str] = []
        write = WriteShards(folder.storage, "png")

        def written() -> Iterator[dict[str, Any]]:
            tables: Any = masks.iter_batches(batch_size=None, batch_format="pyarrow")
            for table in tables:
                write(table)
                yield from table.to_pylist()

        for row in with_progress(written(), len(paths)):
            image = np.asarray(Image.open(row["path"]))
            annotation = np.asarray(Image.open(scenes / "annotations" / f"{row['name']}.png"))
            prediction = np.asarray(Image.open(io.BytesIO(row["segmentation"])))
            scene_confusion = confusion_matrix(prediction, annotation, len(CLASSES))
            confusion += scene_confusion
            if len(tiles) < 12:  # that are shown
                tiles.append([image, overlay(image, annotation, PALETTE), overlay(image, prediction, PALETTE)])
            accuracy = np.trace(scene_confusion) / scene_confusion.sum()
            captions.append(f"{row['name']}   {accuracy:.1%} of pixels right")
        seconds = time.monotonic() - started
        sheet = contact_sheet(
            tiles,
            ["scene", "truth", "SegFormer"],
            captions=captions[:12],
            legend=dict(zip(CLASSES, PALETTE.tolist(), strict=True)),
            title=f"ray_segformer: {arguments.scenes} synthetic scenes, mIoU {mean_iou(confusion):.3f}",
            tile_width=240,
            sheet_columns=2,
        )
        folder.write_file("contact_sheet.png", encode(sheet, "PNG"))
        values = zip(CLASSES, per_class_iou(confusion).tolist(), strict=True)
        ious = {name: None if math.isnan(value) else value for name, value in values}  # JSON has no NaN
        summary = {"images": len(paths), "failures": 0, "mean_iou": mean_iou(confusion), "iou": ious}
        folder.finish(summary, checkpoint.id2label)
    print(f"{'class':<12}{'IoU':>8}")
    for name, value in ious.items():
        print(f"{name:<12}{'absent' if value is None else f'{value:.4f}':>8}")
    print(f"{'mean':<12}{mean_iou(confusion):>8.4f}")
    where = folder.storage.describe("contact_sheet.png")
    print(f"{counted(len(paths), 'scene')}, {len(paths) / seconds:.2f} images/s: {where}")
    return 0
