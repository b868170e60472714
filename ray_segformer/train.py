"""Fine-tuning. Scripts import from here; the code is in `ray_segformer.training`."""

from ray_segformer.training import EveryRowOfValidation, Settings, train_in_trial, train_loop_per_worker

__all__ = ["EveryRowOfValidation", "Settings", "train_in_trial", "train_loop_per_worker"]
