"""What the folder of an output replaces: what an earlier run of the same command left, and nothing else."""

from __future__ import annotations

import json
import os

import pytest

from ray_segformer.outputs import MaskOutput, OutputError, OutputFolder

PREDICT = {"input": "in", "format": "png"}
EXPORT = {"source": "out", "format": "png"}
SUMMARIES = {"predict": "summary.json", "export": "export.json", "evaluate": "evaluation.json"}


def leave(path, command, *, finished=False, options=None):
    """A run with a file, which ends or is interrupted by Ctrl-C."""
    options = {"predict": PREDICT, "export": EXPORT, "evaluate": None}[command] if options is None else options
    try:
        with OutputFolder(str(path), options=options, summary_name=SUMMARIES[command]) as folder:
            folder.begin({0: "wall"})
            folder.write_file("masks/a.png", b"a mask")
            if not finished:
                raise KeyboardInterrupt
            folder.finish({"images": 1}, {0: "wall"})
    except KeyboardInterrupt:
        pass
    return path


def replace(path, command, **how):
    with OutputFolder(str(path), summary_name=SUMMARIES[command], **(how or {"overwrite": True})) as folder:
        folder.begin()
        folder.finish({}, {})


def tree(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("how", ["overwrite", "resume"])
@pytest.mark.parametrize(("left", "by"), [("predict", "export"), ("export", "predict"), ("predict", "evaluate")])
def test_what_another_command_left_stays(tmp_path, left, by, how):
    for name, finished in (("interrupted", False), ("finished", True)):
        output = leave(tmp_path / name, left, finished=finished)
        before = tree(output)
        said = "another command, which would have written" if not finished else f"it has no {SUMMARIES[by]},"
        with pytest.raises(OutputError, match=f"{name} .*{said}.*; name another folder"):
            replace(output, by, **{how: True})
        assert tree(output) == before and "masks/a.png" in before


def test_what_earlier_versions_left_is_told_by_its_options(tmp_path):
    for left, by in (("predict", "export"), ("export", "predict")):
        output = leave(tmp_path / left, left)
        options = {
            name: value
            for name, value in json.loads((output / "job.json").read_text()).items()
            if name in EXPORT | PREDICT
        }
        (output / "job.json").write_text(json.dumps(options))
        before = tree(output)
        with pytest.raises(OutputError, match=f"would have written {SUMMARIES[left]}; name another folder"):
            replace(output, by)
        assert tree(output) == before
        with OutputFolder(str(output), options=options, summary_name=SUMMARIES[left], resume=True) as folder:
            assert folder.resumes
        replace(output, left)
        assert "masks/a.png" not in tree(output)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("job.json", '{"name": "my job", "summary": 3}'),
        ("job.json", '{"format": "mp4"}'),
        ("job.json", "[1, 2]"),
        ("job.json", "no JSON"),
        ("lease.json", '{"tenant": "me"}'),
        ("summary.json", '{"total": 3}'),
        ("summary.json", "[" * 100_000),
        ("export.json", '{"finished": "yesterday"}'),
        ("evaluation.json", "null"),
    ],
)
def test_files_of_other_programs_stay(tmp_path, name, content):
    output = tmp_path / "out"
    (output / "photos").mkdir(parents=True)
    (output / "photos/a.jpg").write_bytes(b"a photo")
    (output / name).write_text(content)
    before = tree(output)
    for command in SUMMARIES:
        for how in ({"overwrite": True}, {"resume": True}, {"overwrite": False}):
            with pytest.raises(OutputError, match=r"out (is no earlier output|exists, and is no output)"):
                replace(output, command, **how)
    assert tree(output) == before


def test_what_the_same_command_left_is_replaced(tmp_path):
    for command in SUMMARIES:
        for finished in (False, True):
            output = leave(tmp_path / f"{command}{finished}", command, finished=finished)
            replace(output, command)
            assert sorted(os.listdir(output)) == sorted(["classes.json", SUMMARIES[command]])
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "lease.json").write_bytes(b"")  # killed while it wrote its first file
    OutputFolder(str(begun), overwrite=True)


def test_an_unfinished_output_has_its_options(tmp_path):
    assert MaskOutput(str(leave(tmp_path / "out", "predict"))).options == PREDICT
    with pytest.raises(OutputError, match="no output of ray-segformer predict"):
        MaskOutput(str(leave(tmp_path / "exported", "evaluate", options={"a": 1})))
