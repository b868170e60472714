"""The engine: SegFormer as a network of our own, and the parts that make it fast.

Here live the network, the runtimes that execute it, the upsampled argmax, sliding windows, and batching within limited
memory. A new runtime is added to `_runtimes.py`. This room knows nothing of Ray, image files or image cells, and can be
imported where only torch is installed.
"""

from ray_segformer.network._allocator import keep_freed_memory, return_freed_memory
from ray_segformer.network._argmax import argmax_between, upsampled_argmax
from ray_segformer.network._batching import Groups, pieces
from ray_segformer.network._cost import gmac
from ray_segformer.network._foreground import upsampled_sigmoid
from ray_segformer.network._hub_format import NetworkError, smallest_side
from ray_segformer.network._runtimes import Runtime, check_options, make_runtime
from ray_segformer.network._segformer import SegformerNetwork
from ray_segformer.network._tiles import segment_views
from ray_segformer.network._windows import Segmentation, View, check_window, window_starts

__all__ = [
    "Groups",
    "NetworkError",
    "Runtime",
    "SegformerNetwork",
    "Segmentation",
    "View",
    "argmax_between",
    "check_options",
    "check_window",
    "gmac",
    "keep_freed_memory",
    "make_runtime",
    "pieces",
    "return_freed_memory",
    "segment_views",
    "smallest_side",
    "upsampled_argmax",
    "upsampled_sigmoid",
    "window_starts",
]
