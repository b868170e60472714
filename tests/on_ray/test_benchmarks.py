"""The benchmarks run, and their tables say what the README says of exactness."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_section_runs_and_is_written(shared, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--only", "argmax", "fuzz", "--quick", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--shared", shared, "--output", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"{tmp_path}: results.json, results.md"
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md"}
    results = json.loads((tmp_path / "results.json").read_text())
    times, agreement = results["sections"]["argmax"]["tables"]
    peer, ours = (next(row for row in times["rows"] if row["side"] == side) for side in ("peer", "ours"))
    assert ours["ratio"] == peer["median"] / ours["median"] > 0
    assert all(row["differing"] <= 5 * row["photos"] for row in agreement["rows"])
    assert "Upsampling and argmax" in (tmp_path / "results.md").read_text()
    assert results["sections"]["fuzz"]["tables"][0]["rows"][0]["files"] == 300  # whatever the number of rounds


def test_the_readme_installs_what_the_benchmarks_import():
    project = (ROOT / "pyproject.toml").read_text()
    (extras,) = re.findall(r'^    pip install -e "\.\[(.*)\]"$', (ROOT / "benchmarks/README.md").read_text(), re.M)
    lists = re.findall(rf"^(?:dependencies|{extras.replace(',', '|')}) = \[(.*?)\](?: #.*)?$", project, re.M | re.S)
    installed = set(re.findall(r'"([\w-]+)', "".join(lists)))
    imported = set()
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    others = imported - sys.stdlib_module_names - {"benchmarks", "ray_segformer"}
    assert {"ray", "moto", "rasterio"} <= others
    assert {"pillow" if name == "PIL" else name for name in others} <= installed
