"""Ray AIR's classes for the installed Ray: Ray's own where it has them, ours where Ray removed them.

Here live `Predictor`, `BatchMapper` and `BatchPredictor`, and all knowledge of Ray's versions, in `installed.py`. This
room knows nothing of SegFormer: its classes work with any predictor.
"""

from __future__ import annotations

from ray_segformer.air import installed
from ray_segformer.air.installed import BatchFormat, Checkpoint, Preprocessor

if installed.Predictor is not None:
    Predictor = installed.Predictor
    PredictorNotSerializableException = installed.PredictorNotSerializableException
else:
    from ray_segformer.air.predictor import (  # type: ignore[assignment]
        Predictor,
        PredictorNotSerializableException,
    )

if installed.BatchMapper is not None:
    BatchMapper = installed.BatchMapper
else:
    from ray_segformer.air.batch_mapper import BatchMapper  # type: ignore[assignment]

if installed.BatchPredictor is not None:
    BatchPredictor = installed.BatchPredictor
else:
    from ray_segformer.air.batch_predictor import BatchPredictor  # type: ignore[assignment]

__all__ = [
    "BatchFormat",
    "BatchMapper",
    "BatchPredictor",
    "Checkpoint",
    "Predictor",
    "PredictorNotSerializableException",
    "Preprocessor",
    "installed",
]
