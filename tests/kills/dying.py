"""Processes that die, or wait, in the middle of their work: the moment is counted, so it is certain.

`mortal(checkpoint, folder, batches=[5])` is the checkpoint with a network that sends SIGKILL to its own process in the
fifth batch. Batches are counted over all processes, and each moment kills one process only.

`gated(folder, first)` is a checkpoint that preprocesses the first images, and waits at a gate before the others.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray

from ray_segformer import SegformerCheckpoint, SegformerPreprocessor
from ray_segformer.pretrained import SegformerContent

# Ray's workers get the code of this module with the objects, so they need not find the file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def count(folder: Any, what: str) -> int:
    """Count one more `what`, over all processes, and return the number so far."""
    with open(os.path.join(folder, what), "ab", buffering=0) as file:
        file.write(b".")
        return os.fstat(file.fileno()).st_size


def counted(folder: Any, what: str) -> int:
    """Return how many `what` were counted."""
    path = Path(folder, what)
    return path.stat().st_size if path.exists() else 0


def die_at(folder: Any, what: str, moments: Any) -> None:
    """Count one more `what`, and kill this process if it is one of `moments`, which are numbers."""
    number = count(folder, what)
    for moment in moments:
        if number < moment:
            continue
        try:  # Two processes may count at the same time. Only one makes the file.
            file = os.open(os.path.join(folder, f"killed in {what} {moment}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            continue
        os.write(file, json.dumps({"pid": os.getpid(), "time": time.time()}).encode())
        os.kill(os.getpid(), signal.SIGKILL)


def killed(folder: Any) -> list[dict[str, Any]]:
    """Return the `pid` and the `time` of each process that killed itself."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("killed in *"))]


class Gate:
    """A gate in a folder, which is closed at first.

    Attributes:
        reached: a file that exists once a process stands at the gate.
    """

    def __init__(self, folder: Any) -> None:
        self.reached = Path(folder, "reached")
        self._open = Path(folder, "open")

    def wait(self) -> None:
        """Wait until the gate is open."""
        self.reached.touch()
        wait_until(self._open.exists)

    def open(self) -> None:
        """Let everybody through, from now on."""
        self._open.touch()


def wait_until(condition: Any, minutes: float = 20) -> None:
    """Wait for something that is certain to come. After so many minutes, it did not, and that is an error."""
    deadline = time.monotonic() + 60 * minutes
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened for {minutes} minutes")
        time.sleep(0.01)


class CountingRuntime:
    """The network, which calls `begin` before each batch."""

    def __init__(self, runtime: Any, begin: Any) -> None:
        self._runtime, self._begin = runtime, begin
        self.rows = runtime.rows

    def __call__(self, pixel_values: Any) -> Any:
        self._begin()
        return self._runtime(pixel_values)


@dataclasses.dataclass(frozen=True)
class CountingContent(SegformerContent):
    """The content of a checkpoint whose workers call `load` before they load it, and `begin` before each batch."""

    load: Any = None
    begin: Any = None

    def make_runtime(self, **options: Any) -> Any:
        """Make the network that is ready to run."""
        self.load()
        return CountingRuntime(super().make_runtime(**options), self.begin)


def counting(checkpoint: Any, load: Any, begin: Any) -> Any:
    """Return the checkpoint with the content of `CountingContent`."""
    fields = {field.name: getattr(checkpoint.content, field.name) for field in dataclasses.fields(checkpoint.content)}
    checkpoint = copy.copy(checkpoint)
    checkpoint._content = CountingContent(**fields, load=load, begin=begin)
    checkpoint._content_ref = checkpoint._content_owner = None
    return checkpoint


def mortal(checkpoint: Any, folder: Any, *, loads: Any = (), batches: Any = ()) -> Any:
    """Return the checkpoint, with processes that die while they load it, or in mid-batch.

    Args:
        checkpoint: a `SegformerCheckpoint`.
        folder: an empty folder, to count in.
        loads, batches: the numbers, from 1, of the loads and of the batches that end with the death of the process.
    """
    load, begin = (partial(die_at, str(folder), *each) for each in (("loads", [*loads]), ("batches", [*batches])))
    return counting(checkpoint, load, begin)


@functools.cache
def _quick_directory() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    shutil.copytree(SegformerCheckpoint.demo().path, folder.name, dirs_exist_ok=True)
    path = Path(folder.name, "preprocessor_config.json")
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "size": {"height": 128, "width": 128}}))
    return folder


def quick_demo(checkpoint_class: type[SegformerCheckpoint] = SegformerCheckpoint) -> SegformerCheckpoint:
    """Return the packaged checkpoint for images of 128 x 128 instead of 320 x 320: a sixth of the work."""
    return checkpoint_class.from_pretrained(_quick_directory().name)


def gated(folder: Any, first: Any) -> SegformerCheckpoint:
    """Return `quick_demo()`, with a preprocessor that waits at `Gate(folder)`.

    Args:
        folder: an empty folder.
        first: the paths of images that need not wait.
    """

    class Preprocessor(SegformerPreprocessor):
        def preprocess(self, batch: Any, *, threads: int = 1) -> Any:
            if not set(first).issuperset(batch["path"]):
                Gate(folder).wait()
            return super().preprocess(batch, threads=threads)

    class Checkpoint(SegformerCheckpoint):  # a copy keeps no attributes, so the class has to know all
        def get_preprocessor(self, **options: Any) -> SegformerPreprocessor:
            options = {**(self._preprocessor_options or {}), **options}
            return Preprocessor.from_config(self.content.preprocessor, **options)

    return quick_demo(Checkpoint)
