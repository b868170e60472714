"""Generated outdoor scenes with exact class masks, to try the package without data of your own.

Here live the scenes, their classes and colours, the packaged checkpoint in `checkpoint/`, and `train.py`, which trained
it. A new kind of thing gets a file of its own and is placed in `_layout.py`. This room loads no checkpoint,
`SegformerCheckpoint.demo()` does; drawing scenes needs only NumPy and Pillow.
"""

from __future__ import annotations

from ray_segformer.demo._classes import CLASSES, PALETTE
from ray_segformer.demo._scenes import make_scene, write_scenes

__all__ = ["CLASSES", "PALETTE", "make_scene", "write_scenes"]
