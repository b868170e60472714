"""The command line without a job: version, suggestions, completion, and the lines that replace a progress bar."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios

import pytest

from ray_segformer import __version__
from ray_segformer.cli import main
from ray_segformer.images import read_label_colors
from ray_segformer.jobs import _progress as progress
from ray_segformer.jobs import with_progress


def ended(capsys, *arguments):
    """The exit code of a command that does not run, and what it printed on stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code, *capsys.readouterr()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_nothing_is_said_after_the_last_line():
    """Of triton, which torch imports to compile and on GPUs: it can report its objects when Python ends."""
    script = """
import sys
import triton
from ray_segformer.cli import command
sys.argv = ["ray-segformer", "info", "demo"]
sys.exit(command())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "") and "parameters" in done.stdout


@pytest.mark.slow
def test_a_driver_does_not_import_torch(small_dir, tmp_path):
    """It takes more than a second. A command checks the model and all options before it looks at the input."""
    script = """
import sys
sys.modules["torch"] = None  # an import of it fails
from ray_segformer.cli import command
sys.argv = ["ray-segformer", *sys.argv[1:]]
sys.exit(command())
"""
    options = ("--model", small_dir, "--window", "64", "--runtime", "eager", "--dtype", "float32")
    arguments = [sys.executable, "-c", script, "predict", tmp_path / "photos", tmp_path / "masks", *options]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert re.fullmatch(rf"ray-segformer: error: {tmp_path}/photos: no such file or folder.*\n", done.stderr)


def test_version(capsys):
    assert ended(capsys, "--version") == (0, f"ray-segformer {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "a", "b", "--widow", "64"), "unrecognized arguments: --widow 64; did you mean --window?"),
        (("evaluate", "a", "--ignore_index=3"), "the following arguments are required: --output"),
        (("predict", "a", "b", "c"), "unrecognized arguments: c"),
        (("predict", "a", "b", "s3://me:secret@c/d?x=1", "abfs://c@e/f?sig=1"), "arguments: s3://c/d abfs://c@e/f"),
        (("predict", "a", "b", "--format", "pgn"), "(choose from 'parquet', 'png'); did you mean png?"),
        (("predict", "a", "b", "--format", "zip"), "(choose from 'parquet', 'png')"),
        (("predit", "a", "b"), "; did you mean predict?"),
    ],
)
def test_an_error_is_a_line_that_suggests_what_was_meant(capsys, arguments, message):
    code, printed, error = ended(capsys, *arguments)
    # from Python 3.12 on, choices have no quotes
    assert (code, printed) == (2, "") and error.count("\n") == 1
    assert message.replace("'", "") in error.replace("'", "")
    assert error.endswith(f"{message[-5:]} (see ray-segformer {arguments[0]} --help)\n") or arguments[0] == "predit"
    assert ("did you mean" in message) == ("did you mean" in error)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_values_and_files(capsys, tmp_path):
    code, script, _ = ended(capsys, "--print-completion", "bash")
    assert code == 0
    (tmp_path / "script").write_text(script)
    (tmp_path / "photos").mkdir()

    def completions(*words):
        line = " ".join(f"'{word}'" for word in words)
        ask = (
            f"source ./script; set -- $(complete -p ray-segformer); while [ $1 != -F ]; do shift; done\n"
            f"COMP_WORDS=(ray-segformer {line}); COMP_CWORD={len(words)}; $2 ray-segformer; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return set(done.stdout.split())

    assert completions("ev") == {"evaluate"}
    assert completions("predict", "--res") == {"--resize", "--resume"}
    assert completions("predict", "--format", "p") == {"parquet", "png"}
    assert completions("predict", "ph") == {"photos"}


def test_where_no_terminal_is_progress_is_lines(capsys, monkeypatch):
    assert list(with_progress(range(7), 7)) == [*range(7)]
    assert capsys.readouterr().err == "7 of 7 images\n"  # the last line, since half a minute has not passed
    monkeypatch.setattr(progress, "_SECONDS_OF_LINES", 0.0)
    assert list(with_progress(range(3), 3, unit=" files")) == [0, 1, 2]
    *others, done, last = capsys.readouterr().err.splitlines()
    for number, line in enumerate(others, 1):
        assert re.fullmatch(rf"{number} of 3 files, \d+\.\d\d/s, \d+ s left", line)
    assert len(others) == 2 and done == last == "3 of 3 files"
    assert list(with_progress(range(2))) == [0, 1]  # their number is not known
    assert capsys.readouterr().err.startswith("1 images, ")


@pytest.mark.slow
def test_on_a_terminal_progress_is_a_bar():
    own, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    code = "from ray_segformer.jobs import with_progress\nlist(with_progress(range(4), 4))"
    with (
        os.fdopen(own, "rb", closefd=True) as read,
        subprocess.Popen([sys.executable, "-c", code], stderr=terminal) as process,
    ):
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = read.read1(4096)
            except OSError:  # of a terminal that nobody has open
                break
            if not part:
                break
            shown += part
    assert process.returncode == 0 and b"4/4 [" in shown and b"100%" in shown


def test_no_message_tells_a_password(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--to", "s3://KEY:SECRET@bucket/page.htm"]) == 2
    assert "s3://bucket/page.htm: the name of a report ends in .html" in (said := capsys.readouterr().err)
    assert "SECRET" not in said
    with pytest.raises(ValueError, match=r"ftp://host/colors\.txt: ") as error:
        read_label_colors("ftp://me:SECRET@host/colors.txt", {0: "a"}, 255)
    assert "SECRET" not in str(error.value)
