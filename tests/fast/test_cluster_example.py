"""The examples of a cluster, as far as they can be tried without one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ray_segformer.cli import _parser

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cluster"


def test_the_job_runs_a_command_that_there_is_on_the_ray_that_is_tested():
    job = yaml.safe_load((EXAMPLE / "rayjob.yaml").read_text())
    command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert command == "ray-segformer"
    options = _parser().parse_args(arguments)
    assert options.input.startswith("s3://") and options.output.startswith("s3://")
    assert options.resume and options.gpus_per_worker == 1
    (version,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-" in (EXAMPLE / "Dockerfile").read_text()


def test_what_was_made_in_a_checkout_is_not_copied_into_the_image():
    made = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    left_out = {line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert {".git", *made} <= left_out


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")
def test_the_image_is_built():
    if subprocess.run(["docker", "pull", "rayproject/ray:2.60.0-py311-gpu"], capture_output=True).returncode != 0:
        pytest.skip("docker cannot pull Ray's image")
    subprocess.run(["docker", "build", "-f", EXAMPLE / "Dockerfile", "-t", "ray-segformer", ROOT], check=True)
