"""Fine-tuning on Ray Train and Ray Tune.

Here live the settings, the training loop, the augmentation, and the checkpoint from which an interrupted run resumes.
Scripts import from `ray_segformer.train`. This room does not predict: `SegformerPredictor` loads its checkpoints.
"""

from ray_segformer.training.augmentation import (
    IGNORED,
    EveryRowOfValidation,
    TrainingRows,
    augment,
    jitter_colours,
    row_generator,
)
from ray_segformer.training.loop import train_in_trial, train_loop_per_worker
from ray_segformer.training.settings import Settings

__all__ = [
    "IGNORED",
    "EveryRowOfValidation",
    "Settings",
    "TrainingRows",
    "augment",
    "jitter_colours",
    "row_generator",
    "train_in_trial",
    "train_loop_per_worker",
]
