"""Measure memory: the peak of a large batch, and whether memory grows over many predictions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import ours, peers
from benchmarks.measure import Table, progress
from benchmarks.process import KEPT, Child
from benchmarks.settings import Settings

_SIZE = (1024, 1366)
_BATCH = 16
_LOOP = "the tutorial's loop"


def run(settings: Settings) -> list[Table]:
    """Return a table of peaks, and one of resident memory after many predictions."""
    with tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
        paths = [_enlarged(photo, Path(folder, f"{number}.jpg")) for number, photo in enumerate(settings.mixed(_BATCH))]
        peaks = _peaks(settings, paths)
    return [peaks, _growth(settings)]


def _enlarged(photo: str, path: Path) -> str:
    height, width = _SIZE
    Image.open(photo).convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(path, quality=92)
    return str(path)


def _peaks(settings: Settings, paths: list[str]) -> Table:
    model, threads = settings.model, settings.threads
    # The loop holds the full-size logits of a whole batch. If they do not fit in memory, its batch is smaller.
    need = _BATCH * 150 * _SIZE[0] * _SIZE[1] * 4 * 1.25
    loops = _BATCH if _available() > need and not settings.quick else 4
    contestants: list[tuple[str, str, tuple[Any, ...], tuple[Any, ...], bool]] = [
        (_LOOP, "peer", (peers.tutorial_loop, model), (), False),
        ("transformers' pipeline", "peer", (peers.transformers_pipeline, model), (), False),
        ("the loop in OpenVINO, float32", "peer", (peers.openvino_loop, model, threads, loops), ("float32",), False),
    ]
    for runtime in settings.runtimes:
        factory = (ours.our_predictor, model, runtime, ("float32",))
        contestants.append((f"{runtime}, float32", "ours", factory, ("float32",), False))
        contestants.append((f"{runtime}, float32, {KEPT}", "ours", factory, ("float32",), True))

    rows: list[dict[str, Any]] = []
    for name, side, factory, options, keep_memory in contestants:
        progress(f"memory: {name}")
        batch = loops if "loop" in name else _BATCH
        with Child(_peak, *factory, threads=threads, keep_memory=keep_memory) as child:
            loaded, peak = child(paths[:batch], batch, *options)
        rows.append(
            {"name": name, "side": side, "batch": batch, "loaded": loaded, "above": peak - loaded, "peer": _LOOP}
        )
        rows[-1]["ratio"] = rows[0]["above"] / rows[-1]["above"]
    progress("")
    columns = {
        "name": "",
        "batch": "batch",
        "loaded": "loaded, MB",
        "above": "above loaded, MB",
        "ratio": "the loop's, times ours",
    }
    notes = [
        f"Peak resident memory while a fresh process predicts its first batch, {_SIZE[0]} x {_SIZE[1]} photos from "
        "files, above what is resident once the model is loaded."
    ]
    if loops < _BATCH:
        notes.append(
            f"The loop gets only {loops} images. Its memory grows with their number, so the ratios are too small."
        )
    return Table("Peak memory, B0", columns, rows, notes)


def _peak(factory: Callable[..., Any], *arguments: Any) -> Callable[..., tuple[float, float]]:
    masks = factory(*arguments)

    def run(paths: Sequence[str], batch_size: int, *options: Any) -> tuple[float, float]:
        """Return resident memory before a prediction, and its peak during it, in MB."""
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts at what is resident now
        loaded = _status("VmRSS")
        masks(paths, batch_size, *options)
        return loaded, _status("VmHWM")

    return run


def _status(name: str) -> float:
    """Return a line of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def _available() -> float:
    """Return the bytes of memory that are available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024


def _growth(settings: Settings) -> Table:
    counts = (1, 10, 20) if settings.quick else (1, 10, 50, 200)
    rows = []
    for runtime, keep_memory in (("eager", False), *((runtime, True) for runtime in settings.runtimes)):
        name = f"{runtime}, float32" + f", {KEPT}" * keep_memory
        with Child(_predictions, settings.model, runtime, threads=settings.threads, keep_memory=keep_memory) as child:
            row: dict[str, Any] = {"name": name, "side": "ours"}
            done = 0
            for count in counts:
                progress(f"memory: {name}, {count} predictions")
                row[str(count)] = child(settings.photos, done, count)
                done = count
        rows.append(row)
    progress("")
    columns = {"name": "MB after predictions", **{str(count): str(count) for count in counts}}
    notes = ["Resident memory of the process. Each prediction is of one or two images of 200 to 1400 pixels a side."]
    return Table("Memory over many predictions of varying sizes, B0", columns, rows, notes)


def _predictions(model: str, runtime: str) -> Callable[[Sequence[str], int, int], float]:
    from ray_segformer import SegformerPredictor

    predictor = SegformerPredictor(model, runtime=runtime, dtype="float32")

    def run(photos: Sequence[str], first: int, last: int) -> float:
        """Make the predictions from `first` up to `last`. Return resident memory after them, in MB."""
        for number in range(first, last):
            random = np.random.default_rng(number)
            batch = np.empty(random.integers(1, 3), object)
            for row in range(len(batch)):
                width, height = (int(side) for side in random.integers(200, 1401, 2))
                batch[row] = np.asarray(Image.open(photos[number % len(photos)]).convert("RGB").resize((width, height)))
            predictor.predict({"image": batch})
        return _status("VmRSS")

    return run
