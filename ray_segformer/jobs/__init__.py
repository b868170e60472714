"""Jobs: turn an input into an output, on Ray.

This room has `predict`, `evaluate` and `check`, the folders that they write, and the journal from which an interrupted
job resumes. Add a new output format here. This room does not know the command line, and does not train.
"""

from ray_segformer.jobs.check import CHECKED_ROWS, check
from ray_segformer.jobs.cluster import ENCODING_CPUS, ResourceError, resources_for, start_ray
from ray_segformer.jobs.encode import EncodeMasks
from ray_segformer.jobs.evaluate import ScoredImage, evaluate, most_confused
from ray_segformer.jobs.evaluation_predictor import EvaluationPredictor
from ray_segformer.jobs.failures import Failure, explain, failure_of
from ray_segformer.jobs.mask_folder import MaskFolder
from ray_segformer.jobs.output_folder import OutputError, OutputFolder
from ray_segformer.jobs.output_names import TakenNames
from ray_segformer.jobs.predict import encoded_masks, predict
from ray_segformer.jobs.progress import with_progress

__all__ = [
    "CHECKED_ROWS",
    "ENCODING_CPUS",
    "EncodeMasks",
    "EvaluationPredictor",
    "Failure",
    "MaskFolder",
    "OutputError",
    "OutputFolder",
    "ResourceError",
    "ScoredImage",
    "TakenNames",
    "check",
    "encoded_masks",
    "evaluate",
    "explain",
    "failure_of",
    "most_confused",
    "predict",
    "resources_for",
    "start_ray",
    "with_progress",
]
