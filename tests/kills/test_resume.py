"""Jobs that are killed, and go on: real SIGKILL, real files, compared with a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
from drivers import (
    MINUTES,
    PROCESSES,
    ROWS,
    gated_job,
    hold,
    interrupted_before,
    killed_before,
    started,
    stopped,
    write_rows,
)
from dying import Gate, gated, killed, mortal, quick_demo, wait_until
from PIL import Image
from reference import decode, encode

from ray_segformer import SegformerCheckpoint
from ray_segformer.demo import write_scenes
from ray_segformer.inputs import find_images
from ray_segformer.outputs import LocalStorage, OutputError, OutputFolder, WriteShards, _lease
from ray_segformer.predict import predict
from ray_segformer.viz import class_palette, overlay

IMAGES = 48  # tasks preprocess 16 at once, and rows come when those of the next task are there


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of images of several sizes, some of them in a folder in it. Not to be changed."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, IMAGES, height=96, width=128, vary_size=True)
    (folder / "images" / "more").mkdir()
    for path in sorted((folder / "images").glob("*.jpg"))[::3]:
        path.rename(folder / "images" / "more" / path.name)
    return folder / "images"


def rows_of(output):
    """Every row of an output in parquet, by path."""
    rows = masks_of(output)
    by_path = {path: (segmentation, error) for path, segmentation, error in rows}
    assert len(by_path) == len(rows)  # each once
    return by_path


def masks_of(output):
    """Every row of an output in parquet, sorted by path."""
    rows = [row for part in sorted((output / "masks").iterdir()) for row in pa.parquet.read_table(part).to_pylist()]
    return sorted((row["path"], row["segmentation"], row["error"]) for row in rows)


def shards_of(output):
    """The shards of an output, and their bytes."""
    return {path.name: path.read_bytes() for path in shard_paths(output)}


def shard_paths(output):
    return [path for folder in ("masks", "rows") for path in output.glob(f"{folder}/part-*.parquet")]


def written(output):
    """How many rows the shards of an output have."""
    return sum(pa.parquet.read_metadata(path).num_rows for path in shard_paths(output))


def run(source, output, checkpoint=None, **options):
    options = {"batch_size": 2, "workers": 1, "rows_per_shard": 4, "progress": False, **options}
    return predict(str(source), str(output), checkpoint or quick_demo(), **options)


@pytest.fixture(scope="module")
def clean_run(scenes, ray_session, tmp_path_factory):
    """The output and the summary of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("clean") / "out"
    summary = run(scenes, output, resume=True)  # there is nothing to go on from: it starts
    assert len(rows_of(output)) == IMAGES
    return output, summary


@pytest.fixture(scope="module")
def clean(clean_run):
    """The output of a run that nothing disturbed. Not to be changed."""
    return clean_run[0]


# Killed


def test_a_job_whose_workers_are_killed_writes_what_it_would_have_written(scenes, clean, tmp_path):
    """Workers die while they load, in the first batch, and in later ones."""
    output, deaths = tmp_path / "out", tmp_path / "deaths"
    deaths.mkdir()
    checkpoint = mortal(quick_demo(), deaths, loads=[1], batches=[1, 18])
    summary = run(scenes, output, checkpoint, workers=2)
    pids = {death["pid"] for death in killed(deaths)}
    assert len(pids) == 3 and not any(map(psutil.pid_exists, pids))
    assert (summary["images"], summary["failures"]) == (IMAGES, 0)
    assert rows_of(output) == rows_of(clean)


def test_killed_before_any_change_on_disk_a_job_writes_each_row_once(tmp_path_factory):
    """What writes an output, killed before its first change on disk, its second, ..., its last."""
    in_memory = Path("/dev/shm")  # to flush hundreds of files to a disk takes long
    parent = in_memory if os.access(in_memory, os.W_OK) else tmp_path_factory.mktemp("changes")
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        write_rows(Path(folder, "clean"), ROWS)
        expected = rows_of(Path(folder, "clean"))
        assert len(expected) == 5
        shards_seen, change = set(), 1
        while killed_before(output := Path(folder, f"before{change}"), ROWS, change):
            before = shards_of(output)
            assert not (output / "summary.json").exists() or rows_of(output) == expected
            if change % 2:
                killed_before(output, ROWS, change // 2 + 1)
            write_rows(output, ROWS)
            assert rows_of(output) == expected
            after = shards_of(output)
            assert {name: after[name] for name in before} == before  # nothing of it was done again
            summary = json.loads((output / "summary.json").read_text())
            assert summary["images"] == 5
            shards_seen.add(len(before))
            change += 1
        assert sorted(os.listdir(folder + "/clean")) == ["classes.json", "masks", "summary.json"]
        assert change > 30 and shards_seen == {0, 1, 2, 3}


def test_killed_with_its_workers_or_without_a_job_goes_on_and_its_masks_are_those_of_an_undisturbed_run(
    scenes, clean, ray_address, tmp_path
):
    output = tmp_path / "out"
    paths = [row["path"] for row in find_images(str(scenes)).take(IMAGES)]
    options = {"source": str(scenes), "output": str(output), "resume": True, "batch_size": 2, "workers": 1}

    def stands_before(name):
        arguments = ["predict", scenes, output, "--resume", "--shard-rows", 8, "--batch-size", 2, "--workers", 1]
        arguments += ["--model", quick_demo().path]
        return stopped(ray_address, output / name, *arguments)

    def waits_for(images, shards, address):
        """A driver whose workers wait before the images after the first ones, when there are so many shards."""
        folder = tmp_path / f"gate{images}"
        folder.mkdir()
        driver, _ = started(gated_job, address, str(folder), paths[:images], {**options, "rows_per_shard": 8})
        wait_until(lambda: Gate(folder).reached.exists() and len(shard_paths(output)) >= shards)
        return driver

    # Which processes are killed, and when.
    moments = [
        ("driver", lambda: stands_before("job.json")),
        ("everything", lambda: waits_for(32, 2, "local")),
        ("driver", lambda: waits_for(40, 3, ray_address)),
        ("driver", lambda: stands_before("summary.json")),
    ]
    before, rows = {}, []
    for kind, start in moments:
        driver = start()
        processes = [psutil.Process(driver.pid)]
        if kind == "everything":
            processes += processes[0].children(recursive=True)
            assert {"gcs_server", "raylet"} <= {process.name() for process in processes}
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        driver.join(MINUTES)
        assert driver.exitcode == -signal.SIGKILL and not (output / "summary.json").exists()
        after = shards_of(output)
        assert {name: after[name] for name in before} == before  # nothing of it was done again
        before = after
        rows.append(written(output))
    # The second one may have written, before it was killed, all that the third one can.
    assert rows[0] == 0 < rows[1] <= rows[2] < rows[3] == IMAGES
    summary = run(scenes, output, resume=True)
    assert rows_of(output) == rows_of(clean) and shards_of(output) == before
    assert sorted(os.listdir(output)) == ["classes.json", "masks", "summary.json"]
    assert summary["images"] == summary["resumed"] == IMAGES


# Interrupted


@pytest.fixture(scope="module")
def sources(scenes, tmp_path_factory):
    """The images as a folder, as a list that has one twice, and as parquet whose rows share a path."""
    folder = tmp_path_factory.mktemp("sources")
    paths = sorted(scenes.rglob("*.jpg"))
    (folder / "list.txt").write_text("\n".join(map(str, [*paths[1:], paths[5]])))
    images, names = [path.read_bytes() for path in paths], [path.name for path in paths]
    table = pa.table({"image": images, "path": [*names[:8], *names[:40]]})
    (folder / "tables").mkdir()
    pa.parquet.write_table(table.slice(0, 20), folder / "tables" / "a.parquet", row_group_size=3)
    pa.parquet.write_table(table.slice(20), folder / "tables" / "b.parquet", row_group_size=8)
    return {
        "folder": scenes,
        "list": folder / "list.txt",
        "parquet": folder / "tables",
    }


@pytest.fixture(scope="module")
def expected_of(sources, clean):
    """The rows of a kind of source, sorted by path, as a run that nothing disturbed makes them."""
    rows = masks_of(clean)
    masks, names = [mask for _, mask, _ in rows], [Path(path).name for path, _, _ in rows]
    assert [path for path, _, _ in rows] == [str(path) for path in sorted(sources["folder"].rglob("*.jpg"))]
    return {
        "folder": rows,
        "list": sorted([*rows[1:], rows[5]]),
        "parquet": sorted(zip([*names[:8], *names[:40]], masks, [None] * IMAGES, strict=True)),
    }


@pytest.fixture(scope="module")
def interrupted(sources, ray_session, tmp_path_factory):
    """Copies what an interrupted run of a kind of source left, to an output to go on with; returns the rows in it."""
    left = {}

    def copy(kind, output):
        if kind not in left:
            left[kind] = tmp_path_factory.mktemp("interrupted") / "out"
            interrupt(sources[kind], left[kind])
        # A task of the run that ended may still write a file there.
        shutil.copytree(left[kind], output, ignore=shutil.ignore_patterns(".unfinished"))
        return written(output)

    return copy


def interrupt(source, output, error=KeyboardInterrupt, message=None, **options):
    """A run that ends while it waits for the last images, with two shards or more done; returns how many rows are.

    It gets Ctrl-C; or the last images, and with them the `error` that they cause.
    """
    first = [row["path"] for row in find_images(str(source)).take(IMAGES - 8)]
    with tempfile.TemporaryDirectory() as folder:
        gate, ended = Gate(folder), threading.Event()

        def watch():
            wait_until(lambda: ended.is_set() or (gate.reached.exists() and len(shard_paths(output)) >= 2))
            if error is not KeyboardInterrupt:
                gate.open()
            elif not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

        def handle(*arguments):
            gate.open()  # no earlier: the run must not end before it is interrupted
            signal.default_int_handler(*arguments)

        watcher = threading.Thread(target=watch)
        before = signal.signal(signal.SIGINT, handle)
        watcher.start()
        try:
            with pytest.raises(error, match=message):
                run(source, output, gated(folder, first), **options)
        finally:
            ended.set()
            watcher.join()
            signal.signal(signal.SIGINT, before)
    assert not (output / "summary.json").exists()
    rows = written(output)
    assert 8 <= rows <= IMAGES - 8
    return rows


def test_what_an_interrupted_job_left_is_not_taken_for_finished_and_can_be_replaced(
    scenes, clean, interrupted, tmp_path
):
    interrupted("folder", tmp_path / "out")
    with pytest.raises(OutputError, match=r"out was left by an interrupted run; continue with --resume"):
        run(scenes, tmp_path / "out")
    summary = run(scenes, tmp_path / "out", overwrite=True)
    assert (summary["images"], summary["resumed"]) == (IMAGES, 0)
    assert masks_of(tmp_path / "out") == masks_of(clean)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_an_interrupted_job_goes_on(sources, expected_of, clean_run, interrupted, tmp_path, kind):
    rows = interrupted(kind, tmp_path / "out")
    summary = run(sources[kind], tmp_path / "out", resume=True)
    assert (summary["images"], summary["resumed"], summary["failures"]) == (IMAGES, rows, 0)
    assert summary["images_per_second"] == pytest.approx((IMAGES - rows) / summary["seconds"], rel=0.01)
    assert summary["classes"] == clean_run[1]["classes"]
    assert masks_of(tmp_path / "out") == expected_of[kind]


@pytest.fixture
def new_list(sources):
    """Replaces the lines of the list, for a test."""
    before = sources["list"].read_text()
    yield lambda paths: sources["list"].write_text("\n".join(map(str, paths)))
    sources["list"].write_text(before)


@pytest.fixture(scope="module")
def new_images(tmp_path_factory):
    """Three images that are not among the scenes."""
    folder = tmp_path_factory.mktemp("new")
    write_scenes(folder, 3, seed=1000, height=96, width=128)
    return [str(path) for path in sorted((folder / "images").iterdir())]


def test_an_interrupted_job_goes_on_in_another_order_and_with_new_images(
    sources, expected_of, interrupted, new_list, new_images, tmp_path
):
    paths = sources["list"].read_text().splitlines()
    rows = interrupted("list", tmp_path / "out")
    new_list([*new_images, *reversed(paths)])
    summary = run(sources["list"], tmp_path / "out", resume=True)
    assert (summary["images"], summary["resumed"]) == (IMAGES + 3, rows)
    found = masks_of(tmp_path / "out")
    assert [row for row in found if row[0] not in new_images] == expected_of["list"]
    assert [row[0] for row in found if row[0] in new_images and row[1] and not row[2]] == new_images


def test_new_images_are_found_also_where_more_have_gone(sources, interrupted, new_list, new_images, tmp_path):
    rows = interrupted("list", tmp_path / "out")
    new_list(new_images)  # fewer than are done
    summary = run(sources["list"], tmp_path / "out", resume=True)
    assert summary["images"] == rows + 3
    assert set(new_images) < {path for path, _, _ in masks_of(tmp_path / "out")}


def test_going_on_with_keep_gives_a_bad_image_its_row(scenes, clean, tmp_path):
    """A job of a glob, which ended at its last image: the rows before are kept."""
    folder, output = tmp_path / "images", tmp_path / "out"
    shutil.copytree(scenes, folder)
    source = folder / "**" / "*.jpg"
    broken = sorted(folder.rglob("*.jpg"))[-1].relative_to(folder)
    (folder / broken).write_bytes(b"broken")
    rows = interrupt(source, output, Exception, "not an image", mask_format="png", overlays=True)
    summary = run(source, output, mask_format="png", overlays=True, resume=True, on_error="keep")
    assert (summary["images"], summary["resumed"]) == (IMAGES, rows)
    assert summary["failures_by_cause"] == {"not an image": 1}
    masks = {Path(path).relative_to(scenes): mask for path, (mask, _) in rows_of(clean).items()}
    masks.pop(broken)
    assert {path.relative_to(output / "masks"): path.read_bytes() for path in (output / "masks").rglob("*.png")} == {
        path.with_suffix(".png"): mask for path, mask in masks.items()
    }
    table = pa.parquet.read_table(output / "rows").to_pylist()
    of_rows = {str(folder / path): f"masks/{path.with_suffix('.png')}" for path in masks} | {str(folder / broken): None}
    assert {row["path"]: row["mask"] for row in table} == of_rows and len(table) == IMAGES
    assert sum(each["pixels"] for each in summary["classes"]) == sum(
        np.asarray(decode(mask)).size for mask in masks.values()
    )
    palette = class_palette(quick_demo().id2label)
    for path, mask in masks.items():
        drawn = overlay(np.asarray(Image.open(scenes / path)), np.asarray(decode(mask)), palette)
        assert (output / "overlays" / path).read_bytes() == encode(Image.fromarray(drawn), "JPEG", quality=90)
    assert len(list((output / "overlays").rglob("*.*"))) == IMAGES - 1


def test_failures_that_were_kept_are_not_taken_for_a_run_without(scenes, ray_session, tmp_path):
    source = tmp_path / "images"
    shutil.copytree(scenes, source)
    sorted(source.rglob("*.jpg"))[0].write_bytes(b"broken")
    interrupt(source, tmp_path / "out", on_error="keep")
    with pytest.raises(OutputError, match="the earlier run kept 1 images that failed"):
        run(source, tmp_path / "out", resume=True)
    assert run(source, tmp_path / "out", resume=True, on_error="keep")["failures"] == 1


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"dtype": "bfloat16"}, "dtype was auto, now bfloat16"),
        ({"mask_format": "png"}, "format was parquet, now png"),
        ({"overlays": True}, "overlays was off, now on"),
        ({"max_pixels": 10**6}, "max_pixels was 178956970, now 1000000"),
    ],
)
def test_other_options_are_refused(scenes, interrupted, tmp_path, changed, message):
    interrupted("folder", tmp_path / "out")
    before = shards_of(tmp_path / "out")
    with pytest.raises(OutputError, match=f"{message}: results would be a mixture"):
        run(scenes, tmp_path / "out", resume=True, **changed)
    assert shards_of(tmp_path / "out") == before != {}


def test_another_model_is_refused(scenes, interrupted, tmp_path):
    interrupted("folder", tmp_path / "out")
    model = quick_demo().get_model()
    model.decode_head.classifier.bias[0] += 1e-3
    other = SegformerCheckpoint.from_model(model, quick_demo().get_preprocessor())
    with pytest.raises(OutputError, match="the model is another one: results would be a mixture"):
        run(scenes, tmp_path / "out", other, resume=True)


def test_shards_that_nobody_knows_do_not_make_a_row_twice(scenes, clean, interrupted, tmp_path):
    """Those of tasks that were declared dead and still wrote: before the job goes on, and while it does."""
    output = tmp_path / "out"
    rows = interrupted("folder", output)
    first, second = (pa.parquet.read_table(path) for path in sorted(shard_paths(output))[:2])
    (new, *_) = [row for row in find_images(str(scenes)).take(IMAGES) if row["index"] == IMAGES - 1]
    columns = {"name": pa.array(["x"] * 3), "overlay": pa.nulls(3)}
    both = pa.concat_tables([second.slice(1, 1), first.slice(0, 1), second.slice(0, 1)]).to_pydict()
    # Two rows that are done, and one that is not, with a mask that must not stay.
    both["path"][2], both["index"][2] = new["path"], new["index"]
    zombie = pa.table({**both, **columns, "key": both["path"]})

    def write():
        WriteShards(LocalStorage(str(output)), "parquet")(zombie)

    write()
    assert written(output) == rows + 3
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(folder)

        def write_while_it_goes_on():
            wait_until(gate.reached.exists)
            write()
            gate.open()

        writer = threading.Thread(target=write_while_it_goes_on)
        writer.start()
        summary = run(scenes, output, gated(folder, []), resume=True)
        writer.join()
    assert (summary["images"], summary["resumed"]) == (IMAGES, rows)
    assert masks_of(output) == masks_of(clean)


def test_a_disk_that_is_full_ends_the_job_which_goes_on_when_there_is_room(scenes, clean, tmp_path):
    output = tmp_path / "disk" / "out"
    output.parent.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", output.parent], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        with pytest.raises(Exception, match=r"masks/part-.*: cannot be written: No space left on device"):
            run(scenes, output)
        assert not (output / "summary.json").exists() and 0 < written(output) < IMAGES
        before, done = shards_of(output), written(output)
        subprocess.run(["mount", "-o", "remount,size=8m", output.parent], check=True)
        summary = run(scenes, output, resume=True)
        assert (summary["images"], summary["resumed"]) == (IMAGES, done)
        after = shards_of(output)
        assert {name: after[name] for name in before} == before and masks_of(output) == masks_of(clean)
    finally:
        subprocess.run(["umount", "--lazy", output.parent], check=True)


# Finished


def test_a_finished_job_is_not_done_again(scenes, clean_run, tmp_path):
    finished, first = clean_run
    shutil.copytree(finished, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = run(scenes, tmp_path / "out", resume=True)
    assert (again["images"], again["resumed"], again["seconds"]) == (IMAGES, IMAGES, 0)
    assert {**first, **{name: again[name] for name in ("resumed", "seconds", "images_per_second", "stages")}} == again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(OutputError, match=r"out is complete, but dtype was auto, now bfloat16"):
        run(scenes, tmp_path / "out", resume=True, dtype="bfloat16")
    with pytest.raises(OutputError, match="exists"):
        run(scenes, tmp_path / "out")


def test_what_a_finished_job_lacks_is_made_by_resume(scenes, new_images, tmp_path, monkeypatch):
    folder, output = tmp_path / "images", tmp_path / "out"
    shutil.copytree(scenes / "more", folder)
    options = {"mask_format": "png", "confidence": True, "resume": True}
    first = run(folder, output, **options)
    files = {path: path.read_bytes() for path in output.rglob("*") if path.suffix in (".png", ".parquet")}
    names = (output / "classes.json").read_bytes()
    mask, confidence = min((output / "masks").iterdir()), max((output / "confidence").iterdir())
    mask.unlink()
    confidence.unlink()
    again = run(folder, output, **options)
    assert (again["images"], again["resumed"]) == (first["images"], first["images"] - 8)  # of two shards
    assert {path: path.read_bytes() for path in files} == files

    (output / "classes.json").unlink()
    assert run(folder, output, **options)["resumed"] == first["images"]
    assert (output / "classes.json").read_bytes() == names

    shutil.copy(new_images[0], folder / "0.jpg")
    monkeypatch.chdir(tmp_path)
    again = run("images/", output, **options)  # the same folder, written in another way
    assert (again["images"], again["resumed"]) == (first["images"] + 1, first["images"])
    assert (output / "masks/0.png").exists() and not (output / "job.json").exists()
    summary = json.loads((output / "summary.json").read_text())
    summary["options"]["input"] = "images/"  # as earlier versions wrote it
    (output / "summary.json").write_text(json.dumps(summary))
    assert run(folder, output, **options)["seconds"] == 0
    assert {path: path.read_bytes() for path in files} == files


def test_two_jobs_do_not_write_to_one_place(scenes, tmp_path):
    with OutputFolder(str(tmp_path / "out")) as folder:
        folder.begin()
        before = shards_of(tmp_path)
        with pytest.raises(OutputError, match=rf"another run is writing there \(process {os.getpid()} on "):
            run(scenes, tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / "job.json").exists() and shards_of(tmp_path) == before


def test_an_output_that_was_finished_while_the_input_was_listed_stays(tmp_path):
    late = OutputFolder(str(tmp_path / "out"))  # which looks, and then lists its input
    with OutputFolder(str(tmp_path / "out")) as folder:
        folder.begin()
        folder.finish({}, {0: "wall"})
    with pytest.raises(OutputError, match="out exists; name a new folder, or replace it with --overwrite"), late:
        pass
    assert sorted(os.listdir(tmp_path / "out")) == ["classes.json", "summary.json"]


def test_what_an_interrupted_overwrite_leaves_can_be_overwritten_and_is_not_taken_for_an_earlier_run(tmp_path):
    """By Ctrl-C before its first change on disk, its second, ..., its last."""
    write_rows(tmp_path / "clean", ROWS)
    expected, refused, change = rows_of(tmp_path / "clean"), 0, 1
    while True:
        output = tmp_path / f"before{change}"
        write_rows(output, ROWS)
        if not interrupted_before(output, change):
            break
        if (output / "summary.json").exists():
            assert not (output / "masks").exists() or rows_of(output) == expected
        else:
            try:
                write_rows(output, ROWS)  # which resumes what is there
            except OutputError as error:
                assert "was being deleted there; start again with --overwrite" in str(error)
                refused += 1
            else:
                assert rows_of(output) == expected
        assert not interrupted_before(output, 0)
        assert sorted(os.listdir(output)) == ["classes.json", "summary.json"]
        change += 1
    assert change > 8 and refused


def test_a_driver_that_hangs_loses_the_output_to_another_and_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(_lease, "_SECONDS_UNTIL_FREE", 1.0)  # the first is stopped, however long the second looks
    output = tmp_path / "out"
    here, there = PROCESSES.Pipe()
    first = PROCESSES.Process(target=hold, args=(there, str(output)))
    first.start()
    there.close()
    assert here.recv() == "holds"
    os.kill(first.pid, signal.SIGSTOP)
    with OutputFolder(str(output), overwrite=True) as second:  # after a time without a beat
        second.begin()
        second.write_file("a.txt", "a")
        os.kill(first.pid, signal.SIGCONT)
        assert f"another run is writing there (process {os.getpid()} on " in here.recv()
        first.join(MINUTES)
        second.finish({}, {})
    assert sorted(os.listdir(output)) == ["a.txt", "classes.json", "summary.json"]


def test_an_output_that_its_input_is_in_is_not_replaced(tmp_path):
    output = tmp_path / "out"
    write_rows(output, ROWS)
    photo = output / "photos" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"photo")
    (tmp_path / "link").symlink_to(output)
    for source in (output, photo.parent, photo, f"file://{photo.parent}/*.jpg", tmp_path / "link" / "photos"):
        with pytest.raises(OutputError, match=r"out: --overwrite would delete .*(out|photos).*; name another folder"):
            OutputFolder(str(output), source=str(source), overwrite=True)
    photos = tmp_path / "photos.txt"
    for line in (str(photo), "out/photos/a.jpg", f"file://{photo}", "link/photos/a.jpg"):
        photos.write_text(f"other/a.jpg\n{line}\n")
        with pytest.raises(OutputError, match=r"out: --overwrite would delete .*photos/a.jpg, which is to be read"):
            OutputFolder(str(output), source=str(photos), overwrite=True)
    assert photo.exists()
    photos.write_text("out-photos/a.jpg\n")
    OutputFolder(str(output), source=str(photos), overwrite=True)
    with OutputFolder(str(output), source=f"{output}-photos", overwrite=True) as folder:
        folder.begin()
    assert not photo.exists()


def test_an_output_that_is_a_mount_of_its_own(tmp_path):
    (tmp_path / "out").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "out"], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        write_rows(tmp_path / "out", ROWS)
        assert [path for path, _, _ in masks_of(tmp_path / "out")] == [row["path"] for row in ROWS]
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == len(ROWS)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "out"], check=True)  # another process may look at it
