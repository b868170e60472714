"""Jobs: from an input to an output, on Ray.

Here live `predict` and `evaluate`, the folders that they write, and the journal that an interrupted job resumes from. A
new output format is added here. This room does not know the command line, and does not train.
"""

from ray_segformer.jobs.encode import EncodeMasks
from ray_segformer.jobs.evaluate import ScoredImage, evaluate, most_confused
from ray_segformer.jobs.mask_folder import MaskFolder
from ray_segformer.jobs.output_folder import OutputError, OutputFolder
from ray_segformer.jobs.output_names import TakenNames
from ray_segformer.jobs.predict import encoded_masks, predict
from ray_segformer.jobs.progress import with_progress
from ray_segformer.jobs.protocol import EvaluationPredictor, Protocol, short_side_size
from ray_segformer.jobs.resources import ENCODING_CPUS, ResourceError, resources_for
from ray_segformer.jobs.session import start_ray

__all__ = [
    "ENCODING_CPUS",
    "EncodeMasks",
    "EvaluationPredictor",
    "MaskFolder",
    "OutputError",
    "OutputFolder",
    "Protocol",
    "ResourceError",
    "ScoredImage",
    "TakenNames",
    "encoded_masks",
    "evaluate",
    "most_confused",
    "predict",
    "resources_for",
    "short_side_size",
    "start_ray",
    "with_progress",
]
