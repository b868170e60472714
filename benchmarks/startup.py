"""Measure how long a fresh process takes to its first mask."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks.measure import Contestant, Table, progress, rows, take_turns
from benchmarks.settings import Settings

_TRANSFORMERS = """
import sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

processor = AutoImageProcessor.from_pretrained(sys.argv[1])
model = SegformerForSemanticSegmentation.from_pretrained(sys.argv[1]).eval()
image = Image.open(sys.argv[2]).convert("RGB")
with torch.no_grad():
    outputs = model(**processor(image, return_tensors="pt"))
mask = processor.post_process_semantic_segmentation(outputs, target_sizes=[(image.height, image.width)])[0]
print(tuple(mask.shape), "transformers" in sys.modules, flush=True)
"""
_OURS = """
import sys
import numpy as np
from ray_segformer import SegformerPredictor

predictor = SegformerPredictor(sys.argv[1], runtime=sys.argv[3])
mask = predictor.predict({"image": np.array([sys.argv[2]], object)})["segmentation"][0]
print(tuple(mask.shape), "transformers" in sys.modules, flush=True)
"""
_PEER = "transformers, eager"


def run(settings: Settings) -> list[Table]:
    """Return a table of times to the first mask, also of the first process on a machine."""
    scripts = {
        _PEER: (_TRANSFORMERS,),
        **{f"{runtime}, float32": (_OURS, runtime) for runtime in settings.runtimes},
    }
    imported = {}

    def start(name: str) -> Callable[[], float]:
        def run_once() -> float:
            seconds, imported[name] = _first_mask(settings, *scripts[name])
            return seconds

        return run_once

    contestants = [Contestant(name, "peer" if name == _PEER else "ours", start(name), _PEER) for name in scripts]
    samples = take_turns(contestants, settings.rounds(5))  # the warm-up fills the caches
    table = rows(contestants, samples)
    for row in table:
        row["imports"] = "yes" if imported[row["name"]] else "no"
        if row["side"] == "ours":
            progress(f"first on a machine: {row['name']}")
            with tempfile.TemporaryDirectory(prefix="segformer_benchmark_") as folder:
                row["cold"], _ = _first_mask(settings, *scripts[row["name"]], caches=folder)
    progress("")
    columns = {
        "name": "",
        "median": "seconds",
        "ratio": "times the peer's speed",
        "ratio_by_round": "by round",
        "cold": "first on the machine, s",
        "imports": "imports transformers",
    }
    notes = [
        "From the start of Python to the mask of one JPEG file. Compiled programs are cached on disk, except for "
        "'first on the machine', where the caches of this package, torch and numba are empty."
    ]
    return [Table("Time to the first mask of a fresh process, B0", columns, table, notes)]


def _first_mask(settings: Settings, script: str, runtime: str = "", caches: str | None = None) -> tuple[float, bool]:
    """Run a script. Return the seconds until it prints its mask, and whether it imported transformers."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
    if caches is not None:
        for variable in ("RAY_SEGFORMER_CACHE", "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR"):
            environment[variable] = os.path.join(caches, variable)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", script, settings.model, settings.photos[0], runtime],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
    if process.returncode or not line:
        raise RuntimeError(f"the process ended without a mask, with exit code {process.returncode}")
    return seconds, line.split()[-1] == "True"
