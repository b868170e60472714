"""Batch semantic segmentation with SegFormer on Ray.

The public names are imported on first use. The parts that need no Ray can therefore be imported without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_segformer._guesses import SegformerWarning
    from ray_segformer.air import BatchMapper, BatchPredictor, Predictor
    from ray_segformer.checkpoint import SegformerCheckpoint
    from ray_segformer.images import ImageError
    from ray_segformer.predictor import SegformerPredictor
    from ray_segformer.preprocessor import SegformerPreprocessor
    from ray_segformer.pretrained import CheckpointError

__version__ = "0.2.0"

_MODULES = {
    "BatchMapper": "air",
    "BatchPredictor": "air",
    "CheckpointError": "pretrained",
    "ImageError": "images",
    "Predictor": "air",
    "SegformerCheckpoint": "checkpoint",
    "SegformerPredictor": "predictor",
    "SegformerPreprocessor": "preprocessor",
    "SegformerWarning": "_guesses",
}

__all__ = [
    "BatchMapper",
    "BatchPredictor",
    "CheckpointError",
    "ImageError",
    "Predictor",
    "SegformerCheckpoint",
    "SegformerPredictor",
    "SegformerPreprocessor",
    "SegformerWarning",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
