"""Outputs on a server of objects, over real sockets: drivers and workers that are killed, and a server that fails."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from drivers import MINUTES, PROCESSES, ROWS, gated_job, started, write_rows, write_rows_or_exit
from dying import Gate, quick_demo, wait_until
from proxy import Proxy, process_at
from reference import decode

from ray_segformer.cli import main
from ray_segformer.demo import write_scenes
from ray_segformer.inputs import find_images
from ray_segformer.outputs import OutputError
from ray_segformer.predict import predict

IMAGES = 48
USER = "someone:secret@"  # workers have no password of their own


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, IMAGES, height=96, width=128, vary_size=True)
    return folder / "images"


def run(source, output, **options):
    options = {"batch_size": 2, "workers": 1, "rows_per_shard": 8, "progress": False, **options}
    return predict(str(source), output, quick_demo(), **options)


@pytest.fixture(scope="module")
def clean(scenes, ray_session, tmp_path_factory):
    """The rows of a run to a local folder, with the format "png"; and its files, by name."""
    output = tmp_path_factory.mktemp("clean") / "out"
    run(scenes, str(output), mask_format="png", overlays=True)
    files = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.*g")}
    return pa.parquet.read_table(output / "rows").sort_by("index").to_pylist(), files


@pytest.fixture
def bucket(object_store, request):
    """The file system, and the name of an empty bucket."""
    name = "b" + "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())[-50:].strip("-")
    object_store[0].create_dir(name)
    return object_store[0], name


def rows_of(file_system, folder):
    table = pa.parquet.read_table(folder, filesystem=file_system)
    return table.sort_by("index").to_pylist()


def assert_rows_are_those_of(rows, clean):
    """Rows in parquet have the masks of the clean run, and its other columns."""
    assert [row["index"] for row in rows] == list(range(IMAGES))  # each once
    for row, expected in zip(rows, clean[0], strict=True):
        content, name = row.pop("segmentation"), expected["mask"]
        np.testing.assert_array_equal(np.asarray(decode(content)), np.asarray(decode(clean[1][name])))
        assert row == {column: value for column, value in expected.items() if column != "mask"}


def shards_of(file_system, folder):
    selector = pa.fs.FileSelector(folder, allow_not_found=True)
    infos = file_system.get_file_info(selector)
    names = [info.path for info in infos if info.path.endswith(".parquet")]
    return {name: file_system.open_input_file(name).read() for name in names}


def test_png_files_on_a_store_are_those_of_a_local_folder_and_none_tells_the_password(
    scenes, clean, bucket, object_store, capsys
):
    file_system, name = bucket
    output = f"s3://{USER}{name}/a%20b/out{object_store[1]}"
    arguments = ["predict", str(scenes), output, "--format", "png", "--overlay", "--shard-rows", "8"]
    arguments += ["--model", quick_demo().path]
    assert main([*arguments, "--workers", "1"]) == 0
    printed = capsys.readouterr()
    infos = file_system.get_file_info(pa.fs.FileSelector(f"{name}/a b/out", recursive=True))
    files = {info.path.removeprefix(f"{name}/a b/out/"): info.path for info in infos if info.is_file}
    assert {file for file in files if "part-" not in file} == {*clean[1], "classes.json", "summary.json"}
    for file, content in clean[1].items():
        assert file_system.open_input_file(files[file]).read() == content
    assert rows_of(file_system, f"{name}/a b/out/rows") == clean[0]
    summary = json.loads(file_system.open_input_file(files["summary.json"]).read())
    assert (summary["images"], summary["finished"]) == (IMAGES, True)
    for text in (json.dumps(summary), printed.out, printed.err):
        assert "secret" not in text and "endpoint" not in text
    assert printed.out.splitlines()[-1].endswith(f": s3://{name}/a%20b/out")
    assert main([*arguments, "--resume"]) == 0
    again = capsys.readouterr().out
    assert f"done before: {IMAGES} images" in again
    assert "network" in printed.out and "network" not in again  # the stages of a run that had something to do


def test_a_driver_that_is_killed_goes_on_elsewhere_with_nothing_but_the_uri(
    scenes, clean, bucket, object_store, ray_address, tmp_path
):
    file_system, name = bucket
    paths = [row["path"] for row in find_images(str(scenes)).take(IMAGES)]
    output = f"s3://{USER}{name}/out{object_store[1]}"
    options = {"source": str(scenes), "output": output, "batch_size": 2, "workers": 1, "rows_per_shard": 4}
    driver, _ = started(gated_job, ray_address, str(tmp_path), paths[:32], options)
    wait_until(lambda: Gate(tmp_path).reached.exists() and len(shards_of(file_system, f"{name}/out/masks")) >= 2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.join(MINUTES)
    before = shards_of(file_system, f"{name}/out/masks")
    with pytest.raises(OutputError, match="out was left by an interrupted run; continue with --resume"):
        run(scenes, output)
    summary = run(scenes, output, resume=True)
    after = shards_of(file_system, f"{name}/out/masks")
    assert {shard: after[shard] for shard in before} == before
    done = sum(pa.parquet.read_metadata(pa.BufferReader(shard)).num_rows for shard in before.values())
    assert done <= summary["resumed"] < IMAGES  # a task may have outlived its driver for a moment
    assert_rows_are_those_of(rows_of(file_system, f"{name}/out/masks"), clean)


@pytest.mark.parametrize("exitcode", [-signal.SIGKILL, 1], ids=["killed", "terminated"])
def test_a_process_that_ends_in_any_request_loses_and_doubles_nothing(bucket, object_store, exitcode):
    """Ray terminates workers whose driver is gone: an exception follows the request, here one that begins an upload."""
    file_system, name = bucket
    server = object_store[1].partition("=")[2].partition("&")[0]

    def ended_in(moment):
        """The outcome of a process that writes five rows, and is ended as it sends a request: that of this number."""
        numbers, started = itertools.count(1), threading.Event()

        def answer(method, path, port):
            if (exitcode != 1 or path.endswith("?uploads")) and next(numbers) == moment:
                started.wait()
                if exitcode == 1:
                    process.terminate()
                    return None
                process.kill()
                return 0
            return None

        output = f"s3://{USER}{name}/{moment}"
        with Proxy(server, answer) as proxy:
            process = PROCESSES.Process(target=write_rows_or_exit, args=(output + proxy.options, ROWS))
            process.start()
            started.set()
            process.join(MINUTES)
        before = shards_of(file_system, f"{name}/{moment}/masks")
        write_rows(output + object_store[1], ROWS)
        after = shards_of(file_system, f"{name}/{moment}/masks")
        assert {shard: after[shard] for shard in before} == before
        rows = rows_of(file_system, f"{name}/{moment}/masks")
        assert [(row["path"], row["segmentation"]) for row in rows] == [
            (row["path"], row["segmentation"]) for row in ROWS
        ]
        summary = json.loads(file_system.open_input_file(f"{name}/{moment}/summary.json").read())
        assert summary["images"] == 5
        return process.exitcode, len(before)

    with ThreadPoolExecutor(5) as pool:
        outcomes = list(pool.map(ended_in, range(1, 8) if exitcode == 1 else range(1, 40, 4)))
    assert {code for code, _ in outcomes} == {exitcode}
    assert min(shards for _, shards in outcomes) == 0 < max(shards for _, shards in outcomes)


def test_a_worker_that_is_killed_while_it_writes_costs_nothing(scenes, clean, bucket, object_store):
    file_system, name = bucket
    killed, lock = [], threading.Lock()

    def answer(method, path, port):
        if method == "PUT" and "/masks/part-" in path:
            with lock:
                if len(killed) < 2:
                    process = process_at(port)
                    process.kill()
                    killed.append(process.pid)
                    return 0
        return None

    server = object_store[1].partition("=")[2].partition("&")[0]
    with Proxy(server, answer) as proxy:
        summary = run(scenes, f"s3://{USER}{name}/out{proxy.options}")
    assert len(set(killed)) == 2 and os.getpid() not in killed
    assert (summary["images"], summary["failures"]) == (IMAGES, 0)
    assert_rows_are_those_of(rows_of(file_system, f"{name}/out/masks"), clean)


def test_a_server_that_is_busy_and_then_away_costs_nothing(scenes, clean, bucket, object_store):
    """Of all requests, each fourth is answered with 503 (SlowDown); and 40 in a row get no answer."""
    file_system, name = bucket
    for path in scenes.iterdir():
        with file_system.open_output_stream(f"{name}/in/{path.name}") as file:
            file.write(path.read_bytes())
    count, lock = [0], threading.Lock()

    def answer(method, path, port):
        with lock:
            count[0] += 1
            if 30 <= count[0] < 70:
                return 0
            return 503 if count[0] % 4 == 0 else None

    server = object_store[1].partition("=")[2].partition("&")[0]
    with Proxy(server, answer) as proxy:
        summary = run(f"s3://{USER}{name}/in{proxy.options}", f"s3://{USER}{name}/out{proxy.options}")
    assert count[0] > 100
    assert (summary["images"], summary["failures"]) == (IMAGES, 0)
    rows = rows_of(file_system, f"{name}/out/masks")
    for row, expected in zip(rows, clean[0], strict=True):
        assert row["path"] == f"s3://{name}/in/{expected['path'].rpartition('/')[2]}"
        row["path"] = expected["path"]
    assert_rows_are_those_of(rows, clean)


@pytest.mark.parametrize("status", [403, None], ids=["denied", "no bucket"])
def test_a_bucket_that_may_not_be_written_is_said_before_the_first_image(
    scenes, ray_session, bucket, object_store, capsys, status
):
    name = bucket[1] if status else "nowhere"
    server = object_store[1].partition("=")[2].partition("&")[0]
    with Proxy(server, lambda method, path, port: status if method == "PUT" else None) as proxy:
        assert main(["predict", str(scenes), f"s3://{USER}{name}/out{proxy.options}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ray-segformer: error: s3://{name}/out/lease.json: cannot be written: ")
    assert "secret" not in line


def test_a_store_that_does_not_know_newer_clients_is_said(scenes, ray_session, bucket, object_store, capsys):
    """It keeps the frames around the parts of an upload, which have checksums, as if they were content."""
    server, name = object_store[1].partition("=")[2].partition("&")[0], bucket[1]
    with Proxy(server, lambda *_: None, ("x-amz-content-sha256", "content-encoding")) as proxy:
        assert main(["predict", str(scenes), f"s3://{USER}{name}/out{proxy.options}"]) == 2
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in capsys.readouterr().err


def test_an_evaluation_on_a_store(scenes, ray_session, bucket, object_store, capsys):
    file_system, name = bucket
    output = f"s3://{USER}{name}/scores{object_store[1]}"
    assert main(["evaluate", str(scenes.parent), "--output", output, "--model", "demo"]) == 0
    scores = json.loads(file_system.open_input_file(f"{name}/scores/evaluation.json").read())
    assert scores["images"] == IMAGES and scores["mean_iou"] > 0.5
    assert capsys.readouterr().out.splitlines()[-1] == f"s3://{name}/scores"
