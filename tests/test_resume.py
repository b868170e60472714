"""Jobs that are killed, and go on: real SIGKILL, real files, compared with a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from ray_segformer import SegformerCheckpoint
from ray_segformer.demo import write_scenes
from ray_segformer.jobs import OutputError
from ray_segformer.predict import predict

IMAGES = 60


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Images of several sizes, in two folders."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, IMAGES, height=96, width=128, vary_size=True)
    (folder / "images" / "more").mkdir()
    for path in sorted((folder / "images").glob("*.jpg"))[::3]:
        path.rename(folder / "images" / "more" / path.name)
    return folder / "images"


def rows_of(output):
    """The masks of an output in parquet: every row there is, by path."""
    rows = [row for part in sorted((output / "masks").iterdir()) for row in pa.parquet.read_table(part).to_pylist()]
    by_path = {row["path"]: (row["segmentation"], row["error"]) for row in rows}
    assert len(by_path) == len(rows)  # each once
    return by_path


def parts_of(unfinished):
    """The parts that a journal says are done, and their bytes."""
    done = len(list((unfinished / "journal").glob("part-*.parquet")))
    names = [f"part-{number:05d}.parquet" for number in range(done)]
    return {name: (unfinished / "masks" / name).read_bytes() for name in names}


def committed(unfinished):
    """How many rows a journal says are done."""
    return sum(pa.parquet.read_metadata(part).num_rows for part in unfinished.glob("journal/part-*.parquet"))


# Killed


def start(scenes, output, workers):
    command = [sys.executable, "-m", "ray_segformer.cli", "predict", scenes, output, "--resume"]
    command += ["--shard-rows", "3", "--batch-size", "2", "--workers", str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def predicting(driver):
    """The processes in which masks are made, below a driver."""
    try:
        processes = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in processes if "MapWorker(" in name_of(process)]


def name_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_killed_at_any_moment_a_job_goes_on_and_its_masks_are_those_of_an_undisturbed_run(
    scenes, ray_session, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("killed")
    predict(str(scenes), str(folder / "clean"), SegformerCheckpoint.demo(), progress=False)
    expected = rows_of(folder / "clean")
    assert len(expected) == IMAGES

    chance = random.Random(6)
    # A worker; a driver, after which its Ray ends; all processes of both at once.
    kills = ["worker"] * 5 + ["driver"] * 8 + ["everything"] * 7
    chance.shuffle(kills)
    jobs = resumed = 0
    unfinished = folder / "job0.unfinished"
    while kills or unfinished.exists():
        output = folder / f"job{jobs}"
        unfinished = Path(f"{output}.unfinished")
        before = parts_of(unfinished) if unfinished.exists() else {}
        rows_before = committed(unfinished)
        was_complete = (unfinished / "summary.json").exists()  # killed before it had its name
        driver = start(scenes, output, chance.choice([1, 2]))
        if kills and kills[-1] == "worker":
            while driver.poll() is None and not predicting(driver):
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 2))  # while it starts, waits, or predicts
            for worker in predicting(driver)[:1]:
                worker.kill()
                kills.pop()
        if kills and kills[-1] != "worker":
            if chance.random() < 0.2:  # while it starts, too
                time.sleep(chance.uniform(0, 8))
            else:  # since a shard more is done; a moment of what follows
                while driver.poll() is None and len(list(unfinished.glob("journal/part-*.parquet"))) <= len(before):
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.3))
            if driver.poll() is None:
                process = psutil.Process(driver.pid)
                others = process.children(recursive=True) if kills.pop() == "everything" else []
                for each in [process, *others]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
        _, error = driver.communicate(timeout=300)
        assert driver.returncode in (0, -signal.SIGKILL), error
        assert output.exists() or driver.returncode != 0
        if output.exists():  # under its name, it is complete, also where the driver was killed just then
            assert rows_of(output) == expected, f"job {jobs}"
            assert not unfinished.exists() and not (output / "journal").exists()
            done = {path.name: path.read_bytes() for path in (output / "masks").iterdir()}
            assert {name: done[name] for name in before} == before  # nothing of it was done again
            summary = json.loads((output / "summary.json").read_text())
            assert summary["images"] == IMAGES
            if before and not was_complete:
                assert summary["resumed"] == rows_before
                resumed += 1
            jobs += 1
    assert jobs >= 2 and resumed >= 1


ON_TWO_CPUS = """
import sys
import ray
from ray_segformer import SegformerCheckpoint
from ray_segformer.predict import predict
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
predict(*sys.argv[1:], SegformerCheckpoint.demo(), on_error="keep", rows_per_shard=8, progress=False)
"""


def test_rows_are_committed_while_later_ones_are_preprocessed(scenes, tmp_path):
    slow, output = tmp_path / "slow.png", tmp_path / "out"
    Image.new("L", (12_000, 12_000)).save(slow)  # which takes a good third of a second to decode
    slow.write_bytes(slow.read_bytes()[:-10_000])  # and then is broken, and takes nobody else's time
    paths = [*sorted(scenes.rglob("*.jpg"))[:16], *[slow] * 96]
    (tmp_path / "images.txt").write_text("\n".join(map(str, paths)))
    job = subprocess.Popen([sys.executable, "-c", ON_TWO_CPUS, str(tmp_path / "images.txt"), str(output)])
    while job.poll() is None and not committed(tmp_path / "out.unfinished"):
        time.sleep(0.01)
    slow.unlink()
    assert job.wait(timeout=300) == 0
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 112 and summary["failures"] == 96
    assert summary["failures_by_cause"].get("cannot read", 0) > 0  # taken away before all were decoded


# Interrupted


@pytest.fixture
def source_of(scenes, tmp_path):
    """Makes an input of 24 images: a folder, a glob, a list that has one twice, or parquet whose rows share a path."""
    paths = sorted(scenes.rglob("*.jpg"))[:24]

    def make(kind):
        if kind == "parquet":
            images, names = [path.read_bytes() for path in paths], [path.name for path in paths]
            table = pa.table({"image": images, "path": [*names[:20], *names[:4]]})
            (tmp_path / "tables").mkdir()
            pa.parquet.write_table(table.slice(0, 10), tmp_path / "tables" / "a.parquet", row_group_size=3)
            pa.parquet.write_table(table.slice(10), tmp_path / "tables" / "b.parquet", row_group_size=8)
            return tmp_path / "tables"
        (tmp_path / "images").mkdir()
        names = [Path(shutil.copy(path, tmp_path / "images")) for path in paths]
        if kind == "list":
            (tmp_path / "list.txt").write_text("\n".join(map(str, [*names[1:], names[5]])))
            return tmp_path / "list.txt"
        return tmp_path / "images" / "*.jpg" if kind == "glob" else tmp_path / "images"

    return make


def run(source, output, **options):
    options = {"batch_size": 1, "workers": 1, "rows_per_shard": 2, "progress": False, **options}
    return predict(str(source), str(output), SegformerCheckpoint.demo(), **options)


def interrupt(source, output, **options):
    """A run that gets Ctrl-C after its second shard, and how many rows it committed."""
    journal = Path(f"{output}.unfinished") / "journal"
    ended = threading.Event()

    def watch():
        while len(list(journal.glob("part-*"))) < 2:
            if ended.wait(0.001):
                return
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which pytest-xdist ignores
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(source, output, **options)
    finally:
        ended.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)
    assert not output.exists()
    return committed(journal.parent)


def masks_of(output):
    rows = [row for part in sorted((output / "masks").iterdir()) for row in pa.parquet.read_table(part).to_pylist()]
    return sorted((row["path"], row["segmentation"], row["error"]) for row in rows)


def test_what_an_interrupted_job_left_is_not_taken_for_finished_and_can_be_replaced(source_of, ray_session, tmp_path):
    source = source_of("folder")
    interrupt(source, tmp_path / "out")
    with pytest.raises(OutputError, match=r"out\.unfinished is left of an interrupted run; go on with --resume"):
        run(source, tmp_path / "out")
    summary = run(source, tmp_path / "out", overwrite=True)
    assert (summary["images"], summary["resumed"]) == (24, 0)
    assert len(masks_of(tmp_path / "out")) == 24 and not (tmp_path / "out.unfinished").exists()


@pytest.mark.parametrize("kind", ["folder", "glob", "list", "parquet"])
def test_an_interrupted_job_goes_on(source_of, ray_session, tmp_path, kind):
    source = source_of(kind)
    committed = interrupt(source, tmp_path / "out")
    assert 4 <= committed < 24
    summary = run(source, tmp_path / "out", resume=True)
    assert (summary["images"], summary["resumed"], summary["failures"]) == (24, committed, 0)
    run(source, tmp_path / "clean")
    assert masks_of(tmp_path / "out") == masks_of(tmp_path / "clean")
    assert len(masks_of(tmp_path / "out")) == 24


def test_an_interrupted_job_goes_on_in_another_order_and_with_new_images(source_of, scenes, ray_session, tmp_path):
    source = source_of("list")
    paths = source.read_text().splitlines()
    committed = interrupt(source, tmp_path / "out")
    new = [str(path) for path in sorted(scenes.rglob("*.jpg"))[30:33]]
    source.write_text("\n".join([*new, *reversed(paths)]))
    summary = run(source, tmp_path / "out", resume=True)
    assert (summary["images"], summary["resumed"]) == (27, committed)
    run(source, tmp_path / "clean")
    assert masks_of(tmp_path / "out") == masks_of(tmp_path / "clean")


def test_new_images_are_found_also_where_more_have_gone(source_of, scenes, ray_session, tmp_path):
    source = source_of("list")
    committed = interrupt(source, tmp_path / "out")
    new = [str(path) for path in sorted(scenes.rglob("*.jpg"))[30:32]]
    source.write_text("\n".join(new))  # fewer than are done
    summary = run(source, tmp_path / "out", resume=True)
    assert summary["images"] == committed + 2
    assert set(new) < {path for path, _, _ in masks_of(tmp_path / "out")}


def test_going_on_with_keep_gives_a_bad_image_its_row(source_of, ray_session, tmp_path):
    source = source_of("folder")
    interrupt(source, tmp_path / "out", mask_format="png", overlays=True)
    (source / sorted(os.listdir(source))[-1]).write_bytes(b"broken")
    with pytest.raises(Exception, match="not an image"):
        run(source, tmp_path / "out", mask_format="png", overlays=True, resume=True)
    summary = run(source, tmp_path / "out", mask_format="png", overlays=True, resume=True, on_error="keep")
    assert summary["images"] == 24 and summary["failures_by_cause"] == {"not an image": 1}
    run(source, tmp_path / "clean", mask_format="png", overlays=True, on_error="keep")
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.[pj]*g")}
        for name in ("out", "clean")
    }
    assert files["out"] == files["clean"] and len(files["out"]) == 46


def test_failures_that_were_kept_are_not_taken_for_a_run_without(source_of, ray_session, tmp_path):
    source = source_of("folder")
    (source / sorted(os.listdir(source))[0]).write_bytes(b"broken")
    interrupt(source, tmp_path / "out", on_error="keep")
    with pytest.raises(OutputError, match="1 images of what is done failed, and were kept"):
        run(source, tmp_path / "out", resume=True)
    assert run(source, tmp_path / "out", resume=True, on_error="keep")["failures"] == 1


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"dtype": "bfloat16"}, "dtype was auto, now bfloat16"),
        ({"mask_format": "png"}, "format was parquet, now png"),
        ({"overlays": True}, "overlays was False, now True"),
        ({"max_pixels": 10**6}, "max_pixels was 178956970, now 1000000"),
    ],
)
def test_other_options_are_refused(source_of, ray_session, tmp_path, changed, message):
    source = source_of("folder")
    interrupt(source, tmp_path / "out")
    before = parts_of(tmp_path / "out.unfinished")
    with pytest.raises(OutputError, match=f"{message}: results would be a mixture"):
        run(source, tmp_path / "out", resume=True, **changed)
    assert parts_of(tmp_path / "out.unfinished") == before


def test_another_model_is_refused(source_of, ray_session, tmp_path):
    source = source_of("folder")
    interrupt(source, tmp_path / "out")
    model = SegformerCheckpoint.demo().get_model()
    model.decode_head.classifier.bias[0] += 1e-3
    other = SegformerCheckpoint.from_model(model, SegformerCheckpoint.demo().get_preprocessor())
    with pytest.raises(OutputError, match=r"model was .*, now .*: results would be a mixture"):
        predict(str(source), str(tmp_path / "out"), other, resume=True, progress=False)


def test_a_finished_job_is_not_done_again(source_of, ray_session, tmp_path):
    source = source_of("folder")
    first = run(source, tmp_path / "out", resume=True)  # there is nothing to go on from: it starts
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = run(source, tmp_path / "out", resume=True)
    assert (again["images"], again["resumed"], again["seconds"]) == (24, 24, 0)
    assert {**first, **{name: again[name] for name in ("resumed", "seconds", "images_per_second", "stages")}} == again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(OutputError, match=r"out is complete, but dtype was auto, now bfloat16"):
        run(source, tmp_path / "out", resume=True, dtype="bfloat16")
    with pytest.raises(OutputError, match="exists"):
        run(source, tmp_path / "out")


def test_a_job_killed_while_it_gave_the_folder_its_name_is_finished(source_of, ray_session, tmp_path):
    source = source_of("folder")
    first = run(source, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.unfinished")  # where it is until then
    again = run(source, tmp_path / "out", resume=True)
    assert again["resumed"] == 24 and json.loads((tmp_path / "out" / "summary.json").read_text()) == first
    assert len(masks_of(tmp_path / "out")) == 24


def test_two_jobs_do_not_write_to_one_place(source_of, ray_session, tmp_path):
    with (
        filelock.FileLock(tmp_path / "out.unfinished.lock"),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        run(source_of("folder"), tmp_path / "out")
    assert not (tmp_path / "out.unfinished").exists()


def test_an_output_that_is_a_mount_of_its_own(source_of, ray_session, tmp_path):
    (tmp_path / "out").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "out"], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        run(source_of("folder"), tmp_path / "out")
        assert len(masks_of(tmp_path / "out")) == 24
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == 24
        assert not (tmp_path / "out.unfinished").exists()
    finally:
        subprocess.run(["umount", tmp_path / "out"], check=True)
