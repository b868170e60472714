"""A model as Hugging Face stores it: a directory with configuration, weights and image settings.

This room reads such a directory into memory, checks it, writes it, and finds it by its name on the Hub. It says what a
directory leaves open, and why one cannot be used. It runs no code that a directory brings, and knows nothing of Ray.
"""

from ray_segformer.pretrained._config_file import CONFIG_NAME
from ray_segformer.pretrained._directory import TRAINING_NAME, SegformerContent, preprocessor_in, quiet_transformers
from ray_segformer.pretrained._hub_names import local_directory
from ray_segformer.pretrained._image_settings import CONFIG_NAME as PREPROCESSOR_NAME
from ray_segformer.pretrained._image_settings import ImageSettings, settings_in
from ray_segformer.pretrained._modules import check_modules
from ray_segformer.pretrained._weights import CheckpointError

__all__ = [
    "CONFIG_NAME",
    "PREPROCESSOR_NAME",
    "TRAINING_NAME",
    "CheckpointError",
    "ImageSettings",
    "SegformerContent",
    "check_modules",
    "local_directory",
    "preprocessor_in",
    "quiet_transformers",
    "settings_in",
]
