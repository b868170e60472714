"""Reports as HTML pages, each of one file that loads nothing.

This room has the report of an output of `predict`, and what all such pages share: their head, text that is escaped, and
images and masks as layers. Add a section of the report in `_masks.py`. This room writes no files.
"""

from ray_segformer.reports._layers import Layers, layers
from ray_segformer.reports._masks import render_masks
from ray_segformer.reports._page import count, escape, html_page, is_small, percent, swatch
from ray_segformer.reports._pictures import choose, pictures
from ray_segformer.reports._survey import Survey

__all__ = [
    "Layers",
    "Survey",
    "choose",
    "count",
    "escape",
    "html_page",
    "is_small",
    "layers",
    "percent",
    "pictures",
    "render_masks",
    "swatch",
]
