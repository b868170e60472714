"""The engine: SegFormer as a network of our own, and the parts that make it fast.

Here live the network, the runtimes that execute it, the upsampled argmax, sliding windows, and batching within limited
memory. A new runtime is added to `_runtimes.py`. This room knows nothing of Ray, image files or image cells, and can be
imported where only torch is installed.

The names are imported on first use. A process that only checks a model and its options does not import torch, which
takes more than a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_segformer.network._allocator import keep_freed_memory, return_freed_memory
    from ray_segformer.network._argmax import argmax_between, upsampled_argmax
    from ray_segformer.network._batching import Groups, pieces
    from ray_segformer.network._cost import gmac
    from ray_segformer.network._foreground import upsampled_sigmoid
    from ray_segformer.network._hub_format import NetworkError, check_weights, smallest_side
    from ray_segformer.network._runtime_options import check_options
    from ray_segformer.network._runtimes import Runtime, make_runtime
    from ray_segformer.network._segformer import SegformerNetwork
    from ray_segformer.network._tiles import segment_views
    from ray_segformer.network._window_places import check_window, window_starts
    from ray_segformer.network._windows import Segmentation, View

_MODULES = {
    "Groups": "_batching",
    "NetworkError": "_hub_format",
    "Runtime": "_runtimes",
    "SegformerNetwork": "_segformer",
    "Segmentation": "_windows",
    "View": "_windows",
    "argmax_between": "_argmax",
    "check_options": "_runtime_options",
    "check_weights": "_hub_format",
    "check_window": "_window_places",
    "gmac": "_cost",
    "keep_freed_memory": "_allocator",
    "make_runtime": "_runtimes",
    "pieces": "_batching",
    "return_freed_memory": "_allocator",
    "segment_views": "_tiles",
    "smallest_side": "_hub_format",
    "upsampled_argmax": "_argmax",
    "upsampled_sigmoid": "_foreground",
    "window_starts": "_window_places",
}

__all__ = [
    "Groups",
    "NetworkError",
    "Runtime",
    "SegformerNetwork",
    "Segmentation",
    "View",
    "argmax_between",
    "check_options",
    "check_weights",
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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
