"""Pictures of images, class maps, scores and runs, as Pillow images.

Here live the colours of classes, overlays, sheets of images, and charts of confusion matrices, training curves and
timelines. A new kind of picture gets a file of its own. This room runs no network, writes no files and knows no
commands, and importing it needs neither Ray nor torch nor matplotlib.
"""

from __future__ import annotations

from ray_segformer.viz._confusion import draw_confusion
from ray_segformer.viz._curves import draw_curves
from ray_segformer.viz._examples import display_example_images, visualize_predictions
from ray_segformer.viz._overlay import class_areas, colorize, overlay
from ray_segformer.viz._palette import class_palette, make_palette
from ray_segformer.viz._sheet import contact_sheet
from ray_segformer.viz._timeline import draw_timelines

__all__ = [
    "class_areas",
    "class_palette",
    "colorize",
    "contact_sheet",
    "display_example_images",
    "draw_confusion",
    "draw_curves",
    "draw_timelines",
    "make_palette",
    "overlay",
    "visualize_predictions",
]
