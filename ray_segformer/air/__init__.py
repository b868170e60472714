"""Ray AIR's classes for the installed Ray: Ray's own if it has them, ours if Ray removed them.

This room holds `Predictor`, `BatchMapper` and `BatchPredictor`. All knowledge of Ray's versions is in `installed.py`.
The room knows nothing of SegFormer: its classes work with any predictor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_segformer.air import installed
from ray_segformer.air._checkpoint_files import CheckpointFiles
from ray_segformer.air.installed import BatchFormat, Checkpoint, Preprocessor

# A type checker sees ours everywhere: they have the signatures of Ray's own.
if TYPE_CHECKING or installed.Predictor is None:
    from ray_segformer.air._predictor import Predictor, PredictorNotSerializableException
else:
    Predictor = installed.Predictor
    PredictorNotSerializableException = installed.PredictorNotSerializableException

if TYPE_CHECKING or installed.BatchMapper is None:
    from ray_segformer.air._batch_mapper import BatchMapper
else:
    BatchMapper = installed.BatchMapper

if TYPE_CHECKING or installed.BatchPredictor is None:
    from ray_segformer.air._batch_predictor import BatchPredictor
else:
    BatchPredictor = installed.BatchPredictor

__all__ = [
    "BatchFormat",
    "BatchMapper",
    "BatchPredictor",
    "Checkpoint",
    "CheckpointFiles",
    "Predictor",
    "PredictorNotSerializableException",
    "Preprocessor",
    "installed",
]
