"""The sentence of a failed job, from exceptions as Ray 2.55 and 2.60 hand them over."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError, UserCodeException

from ray_segformer.images import ImageError
from ray_segformer.jobs import explain, failure_of

COLOURED = "\x1b[36mray::MapBatches(f)()\x1b[39m (pid=2819, ip=192.0.2.2)"
GOES_OVER = "\n\nThe above exception was the direct cause of the following exception:\n\n"
DURING = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
ADVICE = """ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, backoff, or which errors are retried, configure `ray.data.DataContext.get_current()`."""
FRAMES = """
  File "/site-packages/package/file.py", line 14, in function
    raise ValueError(f"{name}: {number}")
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"""


def of_data(*exceptions):
    """What Ray Data raises: of the worker's exceptions, only the text."""
    parts = [f"{COLOURED}{FRAMES}\n{text}" for text in exceptions]
    text = GOES_OVER.join([*parts, f"{COLOURED}\n{ADVICE}"])
    return RayTaskError("f", text, UserCodeException(ADVICE), "worker", 1, "192.0.2.2").as_instanceof_cause()


def of_task(cause):
    """What `ray.get` raises: the exception itself is in `cause`."""
    return RayTaskError("f", f"{COLOURED}{FRAMES}\n{type(cause).__name__}: {cause}", cause, "worker", 1, "192.0.2.2")


def of_start(text):
    """What Ray raises if the constructor of an actor does."""
    started = RayTaskError("f", f"{COLOURED}{FRAMES}\n{text}", ValueError("?"), "worker", 1, "192.0.2.2", actor_id="ab")
    return ActorDiedError(started)


OURS = "ray_segformer.images._errors.ImageError: row 2 of the batch (/a: b.png): cannot read: no such file"


@pytest.mark.parametrize(
    ("error", "message", "foreseen"),
    [
        (of_data("KeyError: 'x'", OURS), "row 2 of the batch (/a: b.png): cannot read: no such file", True),
        (
            of_data(OURS + "\nin two\n  lines"),
            "row 2 of the batch (/a: b.png): cannot read: no such file in two lines",
            True,
        ),
        (
            of_data("TypeError: x", "ray_segformer._batch_columns.RowError: row 0 of the batch: TypeError: x"),
            "row 0 of the batch: TypeError: x",
            False,
        ),
        (of_data("other_package.errors.ImageError: theirs"), "ImageError: theirs", False),
        (of_data("pyarrow.lib.ArrowInvalid: Parquet magic bytes"), "ArrowInvalid: Parquet magic bytes", False),
        (of_data("IndexError"), "IndexError", False),
        (
            of_start("ray_segformer.air._retries.WorkerStartError: the process died 3 times in a row"),
            "the process died 3 times in a row",
            True,
        ),
        (
            of_start(f"OSError: first{DURING}Traceback (most recent call last):{FRAMES}\nEOFError: then"),
            "EOFError: then",
            False,
        ),
        (of_task(ImageError("null: the cell is null")), "null: the cell is null", True),
        (of_task(ValueError("a\nb")), "ValueError: a b", False),
        (of_task(of_task(ImageError("empty: 0 bytes")).as_instanceof_cause()), "empty: 0 bytes", True),
        (of_task(ImageError("null: x")).as_instanceof_cause(), "null: x", True),
        (
            OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node was 15 GB."),
            "OutOfMemoryError: Task was killed due to the node running low on memory.",
            False,
        ),
        (ActorDiedError(), "ActorDiedError: The actor died unexpectedly before finishing this task.", False),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device", False),
    ],
)
def test_the_cause_is_found(error, message, foreseen):
    failure = failure_of(error)
    assert " ".join(failure.message.split()) == message
    assert failure.foreseen is foreseen


def test_the_traceback_is_in_a_file_of_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = explain(of_data("KeyError: 'x'", "TypeError: y"), "; try again")
    (file,) = tmp_path.iterdir()
    assert line == f"TypeError: y; try again (traceback: {file})"
    text = Path(file).read_text("utf-8")
    assert "KeyError: 'x'" in text and "TypeError: y" in text and "\x1b" not in text
    assert explain(of_data(OURS)) == OURS.partition("ImageError: ")[2] and list(tmp_path.iterdir()) == [file]


def test_without_room_for_the_traceback_there_is_the_sentence(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/nowhere")
    assert explain(of_data("TypeError: y")) == "TypeError: y"
