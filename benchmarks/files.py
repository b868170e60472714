"""Measure one process, from JPEG files to masks at the images' own sizes."""

from __future__ import annotations

import json
import os

import numpy as np

from benchmarks import ours, peers
from benchmarks.measure import TIME_COLUMNS, Contestant, Table, compare, progress
from benchmarks.process import KEPT, Child, Children, Given
from benchmarks.settings import Settings

_BATCH_SIZE = 8
_LOOP = "the tutorial's loop"


def run(settings: Settings) -> list[Table]:
    """Return a table of times and agreement."""
    paths = settings.mixed(8 if settings.quick else 16)
    model = settings.model
    with Children(settings.threads) as children:
        theirs: dict[str, Child | Given] = {
            _LOOP: children.start(peers.tutorial_loop, model),
            f"{_LOOP}, {KEPT}": children.start(peers.tutorial_loop, model, keep_memory=True),
            "transformers' pipeline": children.start(peers.transformers_pipeline, model),
        }
        openvino = children.start(peers.openvino_loop, model, settings.threads, _BATCH_SIZE)
        theirs |= {f"the loop in OpenVINO, {dtype}": openvino.given(dtype) for dtype in ours.DTYPES}
        everyone = dict(theirs)
        for runtime in settings.runtimes:
            predictor = children.start(ours.our_predictor, model, runtime)
            everyone |= {f"{runtime}, {dtype}": predictor.given(dtype) for dtype in ours.DTYPES}
            if runtime != "openvino":  # OpenVINO keeps its memory by itself
                predictor = children.start(ours.our_predictor, model, runtime, keep_memory=True)
                everyone |= {f"{runtime}, {dtype}, {KEPT}": predictor.given(dtype) for dtype in ours.DTYPES}
        children.wait()

        masks = {}  # making them is also the warm-up
        for name, contestant in everyone.items():
            progress(f"warm-up: {name}")
            masks[name] = _class_maps(contestant(paths, _BATCH_SIZE), model)
        contestants = [
            Contestant(
                name,
                "peer" if name in theirs else "ours",
                lambda contestant=contestant: contestant.seconds(paths, _BATCH_SIZE),
                _LOOP,
            )
            for name, contestant in everyone.items()
        ]
        rows = compare(contestants, settings.rounds(3), images=len(paths), warm_up=False)
    pixels = sum(mask.size for mask in masks[_LOOP])
    for row in rows:
        pairs = zip(masks[row["name"]], masks[_LOOP], strict=True)
        row["equal"] = sum(int((own == expected).sum()) for own, expected in pairs) / pixels
    return [
        Table(
            f"From JPEG files to masks in one process: {len(paths)} photos in batches of {_BATCH_SIZE}, B0",
            {**TIME_COLUMNS, "images_per_second": "images/s", "equal": "equal pixels"},
            rows,
            [
                "The pipeline returns a binary mask for each class. Converting these to class ids is not measured.",
                "Ours: `SegformerPredictor` by runtime and dtype. Equal pixels: share that equals the loop's masks.",
            ],
        )
    ]


def _class_maps(results: list, model: str) -> list[np.ndarray]:
    """Convert the results of a contestant to class ids, uint8 (height, width)."""
    if isinstance(results[0], list):  # results of the pipeline
        with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
            id2label = json.load(file)["id2label"]
        results = [peers.class_map(segments, id2label) for segments in results]
    return [mask.astype(np.uint8) for mask in results]
