"""The files of a checkpoint in memory, to send a checkpoint from the driver to the workers."""

from __future__ import annotations

import copy
import os
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer.air.installed import Checkpoint


@dataclass
class CheckpointFiles:
    """A directory checkpoint with the bytes of its files, to put in the object store.

    A pickled `ray.train.Checkpoint` holds a path only, which may not exist on a worker's node. On Ray 2.6 it held the
    content.

    Attributes:
        checkpoint: the checkpoint, whose class and attributes are kept.
        files: the bytes of each file (uint8 arrays, which all actors of a node share) by relative path; None for
            a folder.
    """

    checkpoint: Checkpoint
    files: dict[str, npt.NDArray[np.uint8] | None]

    @classmethod
    def read(cls, checkpoint: Any) -> Any:
        """Read a checkpoint's files. Return anything else than a `Checkpoint`, such as None, as it is."""
        if not isinstance(checkpoint, Checkpoint):
            return checkpoint
        with checkpoint.as_directory() as directory:
            files = {
                os.path.relpath(path, directory): None if os.path.isdir(path) else np.fromfile(path, np.uint8)
                for path in _content(directory)
            }
        return cls(checkpoint, files)

    def restore(self) -> Checkpoint:
        """Return the checkpoint on this node. Its files are in a temporary folder, removed with the checkpoint."""
        directory = tempfile.TemporaryDirectory(prefix="checkpoint_")
        for path, content in self.files.items():
            target = os.path.join(directory.name, path)
            os.makedirs(target if content is None else os.path.dirname(target), exist_ok=True)
            if content is not None:
                content.tofile(target)
        checkpoint = copy.copy(self.checkpoint)
        Checkpoint.__init__(checkpoint, directory.name)
        weakref.finalize(checkpoint, directory.cleanup)
        return checkpoint


def _content(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the paths of all files and folders in a folder. Links are followed, but not in circles."""
    above = (*above, os.path.realpath(folder))
    for entry in os.scandir(folder):
        if entry.is_file():  # A pipe may never end; a broken link cannot be read.
            yield entry.path
        elif entry.is_dir() and os.path.realpath(entry.path) not in above:
            yield entry.path
            yield from _content(entry.path, above)
