"""Sliding windows over images too large for one pass: whether memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Table
from benchmarks.process import Children
from benchmarks.settings import Settings
from ray_segformer import SegformerCheckpoint
from ray_segformer.jobs import EvaluationPredictor, Protocol

_WINDOW, _STRIDE = 512, 384
_CLASSES = 150
_SIZES = (1024, 2048, 4096, 8192)


def run(settings: Settings) -> list[Table]:
    """A table of square images by size, each in a process of its own."""
    rows = []
    for side in _SIZES[:2] if settings.quick else _SIZES:
        with Children(settings.threads) as children:
            runner = children.start(windows, settings.model, settings.photos[0], keep_memory=True)
            children.wait()
            runner(_WINDOW)  # what libraries load in their first run is not the image's
            added = runner(side)  # before memory that is freed and kept hides it
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
            ["What is added holds image and mask. Logits at full size are what mmsegmentation keeps (computed)."],
        )
    ]


def windows(model: str, photo: str) -> Callable[[int], int]:
    """A function of an image's side that segments a photo tiled to it, and says by how many bytes memory peaked."""
    protocol = Protocol(window=_WINDOW, stride=_STRIDE)
    predictor = EvaluationPredictor(SegformerCheckpoint.from_pretrained(model), protocol=protocol)
    tile = np.asarray(Image.open(photo).convert("RGB"))

    def segment(side: int) -> int:
        """Segment an image of `(side, side)`."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
        before = _status("VmRSS")
        image = np.tile(tile, (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1))[:side, :side]
        batch: dict[str, Any] = {"path": np.array([photo]), "image": image[None]}
        (mask,) = predictor.predict(batch)["segmentation"]
        assert mask.shape == (side, side)
        return _status("VmHWM") - before

    return segment


def _status(name: str) -> int:
    """A line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024
