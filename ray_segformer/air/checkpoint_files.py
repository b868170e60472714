"""The content of a checkpoint on its way from the driver to the workers."""

from __future__ import annotations

import copy
import os
import tempfile
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_segformer.air.installed import Checkpoint


@dataclass
class CheckpointFiles:
    """A directory checkpoint and the bytes of its files, to be put in the object store.

    A `ray.train.Checkpoint` pickles as a path, which a worker node may not have; Ray 2.6's pickled its content.

    Attributes:
        checkpoint: the checkpoint, whose class and attributes are kept.
        files: the bytes (uint8 arrays, shared by all actors of a node) by relative path.
    """

    checkpoint: Checkpoint
    files: dict[str, np.ndarray]

    @classmethod
    def read(cls, checkpoint: Any) -> Any:
        """The content of `checkpoint`, or `checkpoint` itself if it is no directory checkpoint (None, say)."""
        if not isinstance(checkpoint, Checkpoint):
            return checkpoint
        with checkpoint.as_directory() as directory:
            files = {
                os.path.relpath(os.path.join(folder, name), directory): np.fromfile(
                    os.path.join(folder, name), np.uint8
                )
                for folder, _, names in os.walk(directory)
                for name in names
                if os.path.isfile(os.path.join(folder, name))  # and no pipe, which may never end, nor a broken link
            }
        return cls(checkpoint, files)

    def restore(self) -> Checkpoint:
        """The checkpoint on this node: its files are in a temporary folder that lives as long as it."""
        directory = tempfile.TemporaryDirectory(prefix="checkpoint_")
        for path, content in self.files.items():
            target = os.path.join(directory.name, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            content.tofile(target)
        checkpoint = copy.copy(self.checkpoint)
        Checkpoint.__init__(checkpoint, directory.name)
        weakref.finalize(checkpoint, directory.cleanup)
        return checkpoint
