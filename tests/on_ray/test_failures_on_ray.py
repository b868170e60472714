"""The last line of a failed job says why it failed, and where the traceback is, whatever Ray makes of the exception."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from ray.util.client.server.server import serve
from reference import need_openvino, picture, save_small, small_model
from sessions import server_port

from ray_segformer import BatchPredictor, SegformerCheckpoint, SegformerPredictor, __version__
from ray_segformer.cli import main
from ray_segformer.jobs import explain, failure_of


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.filterwarnings("ignore:.*has one class")
def test_a_worker_that_cannot_start(ray_session, program_cache, tmp_path, temporary_folder, capsys):
    """A cache that others can write to is refused, in the constructor of an actor."""
    need_openvino()
    name = "the bones and the soft tissue of a hand"  # of more than the 23 characters that columns have for most
    model = save_small(tmp_path / "model", small_model(1, id2label={0: name}))
    (tmp_path / "in").mkdir()
    Image.fromarray(picture()).save(tmp_path / "in" / "a.png")
    arguments = ["predict", str(tmp_path / "in"), str(tmp_path / "out"), "--runtime", "openvino", "--workers", "1"]
    arguments += ["--model", str(model), "--foreground-threshold", "0.9999", "--format", "png"]
    shared, open_to_all = program_cache.readlink(), temporary_folder.with_name("cache")
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    program_cache.unlink()
    program_cache.symlink_to(open_to_all)
    try:
        assert main(arguments) == 1
    finally:
        program_cache.unlink()
        program_cache.symlink_to(shared)
    line = capsys.readouterr().err.splitlines()[-1]
    (file,) = temporary_folder.iterdir()
    assert line.startswith(f"ray-segformer: error: RuntimeError: {program_cache}")
    said = "; no image is saved: results are written for each 1024 images (--shard-rows)"
    assert line.endswith(f"{said} (traceback: {file})")
    assert "in cache_directory" in file.read_text("utf-8")
    assert sorted(os.listdir(tmp_path)) == ["cache", "in", "model", "tmp"]  # no output, and none that looks unfinished
    assert main([*arguments, "--resume"]) == 0
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == {"0": "background", "1": name}
    assert not np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")).any()
    arguments[arguments.index("0.9999")] = "0.0001"
    assert main([*arguments, "--resume"]) == 2
    assert "foreground_threshold was 0.9999, now 0.0001" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    printed, said = capsys.readouterr()
    assert f"\nclass{'pixels':>{len(name) + 5}}    images\n{name}  100.00 %         1\n" in printed
    assert "one-class" not in said and json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"] == []
    assert np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")).all()


def test_a_row_of_a_dataset(small_dir, ray_session, temporary_folder):
    class Raising(os.PathLike):
        def __fspath__(self):
            raise ZeroDivisionError("a decoder")

    dataset = ray.data.from_items([{"image": Raising(), "path": "a.png"}], override_num_blocks=1)
    preprocessed = SegformerCheckpoint.from_pretrained(small_dir).get_preprocessor().transform(dataset)
    with pytest.raises(Exception, match="ZeroDivisionError") as caught:
        preprocessed.materialize()
    line = explain(caught.value)
    (file,) = temporary_folder.iterdir()
    assert line == f"row 0 of the batch (a.png): ZeroDivisionError: a decoder (traceback: {file})"
    assert failure_of(caught.value).keepable and "preprocess_row" in Path(file).read_text("utf-8")


def test_what_ray_appends_about_its_tries_is_left_out(ray_session, small_dir):
    dataset = ray.data.from_items([{"image": picture(40, 8), "path": "a.png"}], override_num_blocks=1)
    checkpoint = SegformerCheckpoint.from_pretrained(small_dir)
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, resize="none")
    with pytest.raises(Exception, match="too small") as caught:
        predictor.predict(dataset).materialize()
    assert "Failed to apply" in str(caught.value)
    assert explain(caught.value, hint=" (hint)") == (
        "row 0 of the batch (a.png): too small: the network needs at least 29 pixels on each side, and gets 8; "
        'resize="short-side" (--resize short-side) makes small images larger (hint)'
    )


def test_an_exception_that_cannot_be_pickled(ray_session):
    class OddError(Exception):
        def __reduce__(self):
            raise TypeError("no")

    def fail(batch):
        raise OddError("one: two")

    with pytest.raises(Exception, match="one: two") as caught:
        ray.data.range(1).map_batches(fail).materialize()
    assert failure_of(caught.value).message == "OddError: one: two"


def test_a_task_of_a_task(ray_session):
    @ray.remote(num_cpus=0.1)
    def fail():
        np.zeros(2)[5]

    @ray.remote(num_cpus=0.1)
    def call():
        ray.get(fail.remote())

    with pytest.raises(Exception, match="index 5 is out of bounds") as caught:
        ray.get(call.remote())
    assert re.fullmatch(
        r"IndexError: index 5 is out of bounds for axis 0 with size 2", failure_of(caught.value).message
    )


def predict_on(address: str, folder, model, **environment: str) -> str:
    """Return the only line that `predict` of one image says, where it cannot run on the cluster at `address`."""
    Image.fromarray(picture()).save(folder / "a.png")
    arguments = [sys.executable, "-m", "ray_segformer", "predict", "a.png", "out", "--model", str(model)]
    environment = {**os.environ, "RAY_ADDRESS": address, **environment}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert os.listdir(folder) == ["a.png"]
    return done.stderr.removeprefix("ray-segformer: error: ")


def test_a_cluster_that_does_not_answer_is_named(small_dir, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
    said = predict_on(address, tmp_path, small_dir)
    assert said.startswith(f"RAY_ADDRESS is {address}, and nothing answers there (Connection refused); start")


def test_a_cluster_whose_token_is_unknown_is_named(small_dir, tmp_path, ray_address):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    said = predict_on(ray_address, tmp_path, small_dir, **token)
    assert said.startswith(f"RAY_ADDRESS is {ray_address}, and Ray cannot join that cluster (")
    assert said.endswith("if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN\n")


def test_a_cluster_that_runs_another_python_is_named(small_dir, tmp_path, ray_address):
    """As where Ray was started in one environment, and the command in another."""
    venv.create(tmp_path / "other", with_pip=False)
    (packages,) = (tmp_path / "other").glob("lib/python*/site-packages")
    (packages / "those_of_the_test.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "ray_segformer.py").write_text("raise ImportError")  # as if it were missing
    executable = tmp_path / "other" / "bin" / "python"
    job = {"runtime_env": {"py_executable": str(executable)}}
    (tmp_path / "work").mkdir()
    said = predict_on(ray_address, tmp_path / "work", small_dir, RAY_JOB_CONFIG_JSON_ENV_VAR=json.dumps(job))
    assert re.fullmatch(
        rf"node [\d.]+ \(\w{{8}}\): ray_segformer is missing there, and {__version__} where the job was started; "
        rf"install the same version for {executable}\n",
        said,
    )


def test_a_job_over_ray_client_is_refused(small_dir, tmp_path, ray_session):
    port = server_port()
    server = serve("127.0.0.1", port)
    try:
        assert predict_on(f"ray://127.0.0.1:{port}", tmp_path, small_dir) == (
            "Ray Data does not run over Ray Client (ray://); on a machine of the cluster, set RAY_ADDRESS to the "
            "head's host:port, such as head:6379, or start this with `ray job submit`\n"
        )
    finally:
        server.stop(0)
