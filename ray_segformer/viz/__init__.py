"""Pictures: class maps in colour, sheets of images, timelines of runs."""

from __future__ import annotations

from ray_segformer.viz.confusion import draw_confusion
from ray_segformer.viz.curves import draw_curves
from ray_segformer.viz.examples import display_example_images, visualize_predictions
from ray_segformer.viz.overlay import class_areas, colorize, overlay
from ray_segformer.viz.palette import class_palette, make_palette
from ray_segformer.viz.sheet import contact_sheet
from ray_segformer.viz.timeline import draw_timelines

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
