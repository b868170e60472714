"""Reports as HTML pages, each of one file that loads nothing.

This room has what such pages share: their head, text that is escaped, and images and masks as layers. This room writes
no files.
"""

from ray_segformer.reports.layers import Layers, layers
from ray_segformer.reports.page import count, escape, html_page, is_small, percent, swatch

__all__ = ["Layers", "count", "escape", "html_page", "is_small", "layers", "percent", "swatch"]
