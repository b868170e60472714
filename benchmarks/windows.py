"""Measure sliding windows over images that are too large for one pass: time, memory, and the peers."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import peers
from benchmarks.measure import Contestant, Table, compare, take_turns
from benchmarks.process import Children
from benchmarks.settings import Settings
from ray_segformer import SegformerCheckpoint, SegformerPredictor
from ray_segformer.network import window_starts

_WINDOW, _STRIDE = 512, 384
_CLASSES = 150
_SIZES = (1024, 2048, 4096, 8192)
_IMAGES = 16  # of one window's size, which are predicted as a batch
_PHOTO = 4000
_BATCH = 4  # windows of the peer


def run(settings: Settings) -> list[Table]:
    """Return a table of square images by size, and one of a large photo with the peers."""
    return [_sizes(settings), _peers(settings)]


def _sizes(settings: Settings) -> Table:
    rows = []
    for side in _SIZES[:2] if settings.quick else _SIZES:
        number = len(window_starts(side, _WINDOW, _STRIDE)) ** 2
        added, samples = _of_size(settings, side, number)
        seconds = statistics.median(samples["windows"])
        rows.append(
            {
                "name": f"{side} x {side}",
                "added": added / 1e6,
                "held": side * side * 4 / 1e6,
                "full": side * side * _CLASSES * 4 / 1e6,
                "windows": number,
                "ms": seconds * 1000,
                "ratio": statistics.median(a / b for a, b in zip(samples["windows"], samples["images"], strict=True)),
                "rate": side * side / 1e6 / (seconds * number),
            }
        )
    return Table(
        f"`--window {_WINDOW} --stride {_STRIDE}`, B0, 150 classes",
        {
            "name": "image",
            "added": "MB added at the peak",
            "held": "MB of image and mask",
            "full": "MB of logits at full size",
            "windows": "windows",
            "ms": "ms a window",
            "ratio": f"a window's time, times that of a {_WINDOW} x {_WINDOW} image",
            "rate": "megapixels/s",
        },
        rows,
        [
            "The added memory includes image and mask. mmsegmentation keeps logits at full size (computed here). "
            f"Images of a window's size are predicted {_IMAGES} at once, without windows."
        ],
    )


def _of_size(settings: Settings, side: int, number: int) -> tuple[int, dict[str, list[float]]]:
    """Return the bytes that are added at the peak, and the seconds of a window, and of an image of its size."""
    with Children(settings.threads) as children:
        runner = children.start(windows, settings.model, settings.photos[0], keep_memory=True)
        images = children.start(small_images, settings.model, settings.photos[0], keep_memory=True)
        children.wait()
        runner(_WINDOW)  # libraries load in the first run; that memory does not count
        added = runner(side)  # measured first: freed memory is kept, and would hide the peak of a later run
        contestants = [
            Contestant("windows", "ours", lambda: runner.seconds(side) / number),
            Contestant("images", "ours", lambda: images.seconds(_IMAGES) / _IMAGES),
        ]
        return added, take_turns(contestants, settings.rounds(5 if side < 4096 else 3))


def _peers(settings: Settings) -> Table:
    side = 1024 if settings.quick else _PHOTO
    with tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder, Children(settings.threads) as children:
        path = str(Path(folder, "large.jpg"))
        Image.open(settings.photos[0]).convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(path)
        by_hand = children.start(peers.windows_by_hand, settings.model, _WINDOW, _STRIDE)
        squashed = children.start(peers.tutorial_loop, settings.model)
        own = children.start(windows_of_files, settings.model, keep_memory=True)
        children.wait()
        theirs, squeezed, ours = by_hand([path], _BATCH)[0], squashed([path], 1)[0], own([path])[0]  # also the warm-up
        name = "transformers in these windows, by hand"
        contestants = [
            Contestant(name, "peer", lambda: by_hand.seconds([path], _BATCH)),
            Contestant(
                "the tutorial's loop, the photo squashed to 512 x 512", "peer", lambda: squashed.seconds([path], 1)
            ),
            Contestant("SegformerPredictor", "ours", lambda: own.seconds([path]), name),
        ]
        rows = compare(contestants, settings.rounds(3), warm_up=False)
        moved = _moved(side, Path(path).stat().st_size)
    for row, mask in zip(rows, (theirs, squeezed, ours), strict=True):
        row["equal"] = float((mask == theirs).mean())
    return Table(
        f"A photo of {side} x {side} from a file, windows of {_WINDOW} every {_STRIDE}, B0, 150 classes",
        {
            "name": "",
            "median": "s an image",
            "ratio": "the peer's time, times ours",
            "equal": "share of pixels equal to the peer's",
        },
        rows,
        ["The squashed photo is faster, since it has one window's pixels. Its mask is another one.", moved],
    )


def _moved(side: int, file_bytes: int) -> str:
    """Return what the ways to a scoring worker carry through the object store, as text."""
    whole = side * side * 3
    cut = len(window_starts(side, _WINDOW, _STRIDE)) ** 2 * _WINDOW**2 * 3
    return (
        f"The pixels go through the object store, {whole / 1e6:.0f} MB (of a file of {file_bytes / 1e6:.1f}): windows "
        f"are cut beside the network. If they were cut in the CPU stage, {cut / 1e6:.0f} MB would go."
    )


def windows(model: str, photo: str) -> Callable[[int], int]:
    """Return a function that segments a tiled photo of a given side, and returns the peak of added memory in bytes."""
    predictor = SegformerPredictor(SegformerCheckpoint.from_pretrained(model), window=_WINDOW, stride=_STRIDE)
    tile = np.asarray(Image.open(photo).convert("RGB"))

    def segment(side: int) -> int:
        """Segment an image of `(side, side)`. Return the peak of added memory in bytes."""
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        batch: dict[str, Any] = {"path": np.array([photo]), "image": _tiled(tile, side)[None]}
        (mask,) = predictor.predict(batch)["segmentation"]
        assert mask.shape == (side, side)
        return _status("VmHWM") - before

    return segment


def small_images(model: str, photo: str) -> Callable[[int], int]:
    """Return a function that segments a number of images of a window's size at once."""
    predictor = SegformerPredictor(SegformerCheckpoint.from_pretrained(model))
    image = _tiled(np.asarray(Image.open(photo).convert("RGB")), _WINDOW)

    def segment(images: int) -> int:
        return len(predictor.predict({"image": np.stack([image] * images)})["segmentation"])

    return segment


def windows_of_files(model: str) -> Callable[[list[str]], list[Any]]:
    """Return a function that segments photos of files in windows."""
    predictor = SegformerPredictor(SegformerCheckpoint.from_pretrained(model), window=_WINDOW, stride=_STRIDE)
    return lambda paths: list(predictor.predict({"image": np.array(paths, object)})["segmentation"])


def _tiled(tile: Any, side: int) -> Any:
    return np.tile(tile, (-(-side // tile.shape[0]), -(-side // tile.shape[1]), 1))[:side, :side]


def _status(name: str) -> int:
    """Return a line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024
