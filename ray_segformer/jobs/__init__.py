"""Jobs: turn an input into an output, on Ray.

This room has `predict`, `evaluate`, `check`, `export` and `report`, and the cluster that they run on. Add a new job
here. Outputs are in `outputs`. This room does not know the command line, and does not train.
"""

from ray_segformer.jobs._check import CHECKED_ROWS, check
from ray_segformer.jobs._cluster import ENCODING_CPUS, ResourceError, check_gpus, resources_for, start_ray
from ray_segformer.jobs._encode import EncodeMasks
from ray_segformer.jobs._encoded_masks import encoded_masks
from ray_segformer.jobs._evaluate import ScoredImage, evaluate, most_confused
from ray_segformer.jobs._evaluation_predictor import EvaluationPredictor
from ray_segformer.jobs._export import export
from ray_segformer.jobs._failures import Failure, explain, failure_of
from ray_segformer.jobs._predict import predict
from ray_segformer.jobs._preflight import check_nodes
from ray_segformer.jobs._progress import with_progress
from ray_segformer.jobs._report import report
from ray_segformer.outputs import OutputError

__all__ = [
    "CHECKED_ROWS",
    "ENCODING_CPUS",
    "EncodeMasks",
    "EvaluationPredictor",
    "Failure",
    "OutputError",
    "ResourceError",
    "ScoredImage",
    "check",
    "check_gpus",
    "check_nodes",
    "encoded_masks",
    "evaluate",
    "explain",
    "export",
    "failure_of",
    "most_confused",
    "predict",
    "report",
    "resources_for",
    "start_ray",
    "with_progress",
]
