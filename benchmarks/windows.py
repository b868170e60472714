"""Measure the memory of sliding windows over images that are too large for one pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Table
from benchmarks.process import Children
from benchmarks.settings import Settings
from ray_segformer import SegformerCheckpoint, SegformerPredictor

_WINDOW, _STRIDE = 512, 384
_CLASSES = 150
_SIZES = (1024, 2048, 4096, 8192)


def run(settings: Settings) -> list[Table]:
    """Return a table of square images by size, each measured in a process of its own."""
    rows = []
    for side in _SIZES[:2] if settings.quick else _SIZES:
        with Children(settings.threads) as children:
            runner = children.start(windows, settings.model, settings.photos[0], keep_memory=True)
            children.wait()
            runner(_WINDOW)  # libraries load in the first run; that memory does not count
            added = runner(side)  # measured first: freed memory is kept, and would hide the peak of a later run
            seconds = runner.seconds(side)
        rows.append(
            {
                "name": f"{side} x {side}",
                "added": added / 1e6,
                "held": side * side * 4 / 1e6,
                "full": side * side * _CLASSES * 4 / 1e6,
                "rate": side * side / 1e6 / seconds,
            }
        )
    return [
        Table(
            f"`evaluate --window {_WINDOW} --stride {_STRIDE}`, B0, 150 classes",
            {
                "name": "image",
                "added": "MB added at the peak",
                "held": "MB of image and mask",
                "full": "MB of logits at full size",
                "rate": "megapixels/s",
            },
            rows,
            ["The added memory includes image and mask. mmsegmentation keeps logits at full size (computed here)."],
        )
    ]


def windows(model: str, photo: str) -> Callable[[int], int]:
    """Return a function that segments a tiled photo of a given side, and returns the peak of added memory in bytes."""
    predictor = SegformerPredictor(SegformerCheckpoint.from_pretrained(model), window=_WINDOW, stride=_STRIDE)
    tile = np.asarray(Image.open(photo).convert("RGB"))

    def segment(side: int) -> int:
        """Segment an image of `(side, side)`. Return the peak of added memory in bytes."""
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        image = np.tile(tile, (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1))[:side, :side]
        batch: dict[str, Any] = {"path": np.array([photo]), "image": image[None]}
        (mask,) = predictor.predict(batch)["segmentation"]
        assert mask.shape == (side, side)
        return _status("VmHWM") - before

    return segment


def _status(name: str) -> int:
    """Return a line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024
