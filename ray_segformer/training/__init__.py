"""Fine-tuning SegFormer on Ray Train and Ray Tune.

    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"model": "nvidia/segformer-b0-finetuned-ade-512-512", "epochs": 20, "batch_size": 4},
        scaling_config=ScalingConfig(num_workers=4),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
        datasets={"train": read_ade20k(root, "training"), "validation": read_ade20k(root, "validation")},
        dataset_config=EveryRowOfValidation(),
    )
    SegformerPredictor.from_checkpoint(trainer.fit().checkpoint)

    trial = tune.with_resources(tune.with_parameters(train_in_trial, datasets=datasets), {"GPU": 1})
    results = tune.Tuner(trial, param_space={"model": ..., "learning_rate": tune.loguniform(1e-5, 1e-3)}).fit()
    SegformerPredictor.from_checkpoint(results.get_best_result(metric="mean_iou", mode="max").checkpoint)

This room holds the settings, the training loop, the augmentation, and the checkpoint from which an interrupted run
resumes. Scripts import from `ray_segformer.train`. This room does not predict: `SegformerPredictor` loads its
checkpoints.
"""

from ray_segformer.training._augmentation import IGNORED, augment, jitter_colours
from ray_segformer.training._loop import train_in_trial, train_loop_per_worker
from ray_segformer.training._rows import EveryRowOfValidation, TrainingRows, row_generator
from ray_segformer.training._settings import Settings

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
