"""The files of a checkpoint in memory, to send a checkpoint from the driver to the workers."""

from __future__ import annotations

import copy
import os
import tempfile
import weakref
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
        files: the bytes of each file (uint8 arrays, which all actors of a node share) by relative path.
    """

    checkpoint: Checkpoint
    files: dict[str, npt.NDArray[np.uint8]]

    @classmethod
    def read(cls, checkpoint: Any) -> Any:
        """Read a checkpoint's files. Return anything else than a `Checkpoint`, such as None, as it is."""
        if not isinstance(checkpoint, Checkpoint):
            return checkpoint
        with checkpoint.as_directory() as directory:
            files = {
                os.path.relpath(os.path.join(folder, name), directory): np.fromfile(
                    os.path.join(folder, name), np.uint8
                )
                for folder, _, names in os.walk(directory)
                for name in names
                if os.path.isfile(os.path.join(folder, name))  # A pipe may never end; a broken link cannot be read.
            }
        return cls(checkpoint, files)

    def restore(self) -> Checkpoint:
        """Return the checkpoint on this node. Its files are in a temporary folder, removed with the checkpoint."""
        directory = tempfile.TemporaryDirectory(prefix="checkpoint_")
        for path, content in self.files.items():
            target = os.path.join(directory.name, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            content.tofile(target)
        checkpoint = copy.copy(self.checkpoint)
        Checkpoint.__init__(checkpoint, directory.name)
        weakref.finalize(checkpoint, directory.cleanup)
        return checkpoint
