"""Measurements of the six architectures on the same images, and a report of them.

This room holds the measurement, the description of the machine, and the report as an HTML page. The architectures
themselves are in `architectures`. This room writes no files: the command `compare` does.
"""

from ray_segformer.comparison._machine import PeakMemory, describe_machine, processor_name
from ray_segformer.comparison._measure import Settings, compare, measure, uneven
from ray_segformer.comparison._report import GalleryImage, render_report

__all__ = [
    "GalleryImage",
    "PeakMemory",
    "Settings",
    "compare",
    "describe_machine",
    "measure",
    "processor_name",
    "render_report",
    "uneven",
]
