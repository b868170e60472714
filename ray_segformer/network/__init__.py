"""The engine: SegFormer from pixel values to class ids. It knows no Ray, and imports where Ray is not installed.

`SegformerNetwork` makes logits at a quarter of the image's size, a runtime (`make_runtime`) runs it, and
`upsampled_argmax` makes class ids at any size of them.
"""

from ray_segformer.network.allocator import keep_freed_memory
from ray_segformer.network.argmax import upsampled_argmax
from ray_segformer.network.runtimes import Runtime, check_options, make_runtime
from ray_segformer.network.segformer import SegformerNetwork

__all__ = [
    "Runtime",
    "SegformerNetwork",
    "check_options",
    "keep_freed_memory",
    "make_runtime",
    "upsampled_argmax",
]
