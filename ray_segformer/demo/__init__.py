"""Generated outdoor scenes with exact masks, to try the package on without any data of your own."""

from __future__ import annotations

from .scenes import CLASSES, PALETTE, make_scene, write_scenes

__all__ = ["CLASSES", "PALETTE", "make_scene", "write_scenes"]
