"""The benchmarks run, and their tables say what the README says of exactness."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_section_runs_and_is_written(shared, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--only", "argmax", "--quick", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--shared", shared, "--output", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    times, agreement = results["sections"]["argmax"]["tables"]
    peer, ours = (next(row for row in times["rows"] if row["side"] == side) for side in ("peer", "ours"))
    assert ours["ratio"] == peer["median"] / ours["median"] > 0
    assert all(row["differing"] <= 5 * row["photos"] for row in agreement["rows"])
    assert "Upsampling and argmax" in (tmp_path / "results.md").read_text()
