"""What importing the package costs, and what it offers."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_public_names_are_lazy(tmp_path):
    program = (
        "import sys, ray_segformer; from ray_segformer.metrics import mean_iou; assert 'ray' not in sys.modules;"
        "names = {n: getattr(ray_segformer, n).__name__ for n in ray_segformer.__all__}; print(sorted(names))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = ["BatchMapper", "BatchPredictor", "Predictor", "SegformerCheckpoint", "SegformerPredictor"]
    assert all(name in done.stdout for name in [*expected, "SegformerPreprocessor"])
