"""What `preprocessor_config.json` says: how an image becomes the network's input, in transformers' words."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

CONFIG_NAME = "preprocessor_config.json"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_SETTINGS = (
    *("size", "do_resize", "resample", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_reduce_labels"),
)


class ImageSettings:
    """The settings of transformers' `SegformerImageProcessor`, with its defaults.

    Args:
        size: `{"height": h, "width": w}` in pixels, or one number for a square.
        do_resize: whether to resize images.
        resample: Pillow's number of the resize filter (2 is bilinear).
        do_rescale: whether `normalize` multiplies by `rescale_factor`.
        rescale_factor: the factor.
        do_normalize: whether `normalize` subtracts `image_mean` and divides by `image_std`.
        image_mean: one number for each channel, of rescaled pixels.
        image_std: one number for each channel, of rescaled pixels.
        do_reduce_labels: whether to map class id 0 to 255 and k to k - 1 (ADE20K).

    Raises:
        ValueError: a setting has none of its values.
    """

    def __init__(
        self,
        size: int | Mapping[str, int] = 512,
        *,
        do_resize: bool = True,
        resample: int = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        do_reduce_labels: bool = False,
    ) -> None:
        self.height, self.width = _height_and_width(size)
        self.do_resize = bool(do_resize)
        self.resample = Image.Resampling(resample)
        self.do_rescale = bool(do_rescale)
        self.rescale_factor = float(rescale_factor)
        self.do_normalize = bool(do_normalize)
        self.image_mean = tuple(float(value) for value in image_mean)
        self.image_std = tuple(float(value) for value in image_std)
        if len(self.image_mean) != 3 or len(self.image_std) != 3:
            raise ValueError(f"image_mean and image_std hold three numbers, not {self.image_mean}, {self.image_std}")
        self.do_reduce_labels = bool(do_reduce_labels)

    def to_config(self) -> dict[str, Any]:
        """Return the settings as `preprocessor_config.json` holds them."""
        return {
            "do_normalize": self.do_normalize,
            "do_reduce_labels": self.do_reduce_labels,
            "do_rescale": self.do_rescale,
            "do_resize": self.do_resize,
            "image_mean": list(self.image_mean),
            "image_processor_type": "SegformerImageProcessor",
            "image_std": list(self.image_std),
            "resample": int(self.resample),
            "rescale_factor": self.rescale_factor,
            "size": {"height": self.height, "width": self.width},
        }

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `preprocessor_config.json` into `directory`. Transformers loads it, too."""
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, CONFIG_NAME), "w", encoding="utf-8") as file:
            json.dump(self.to_config(), file, indent=2, sort_keys=True)
            file.write("\n")

    def normalize(self, pixel_values: Any) -> Any:
        """Rescale and normalise on the tensor's own device.

        Args:
            pixel_values: a uint8 torch tensor `(..., 3, height, width)`.

        Returns:
            A float32 tensor of the same shape: `(pixel_values * rescale_factor - image_mean) / image_std`.
        """
        pixel_values = pixel_values.float()
        if self.do_rescale:
            pixel_values = pixel_values * self.rescale_factor
        if self.do_normalize:
            mean = pixel_values.new_tensor(self.image_mean)[:, None, None]
            std = pixel_values.new_tensor(self.image_std)[:, None, None]
            pixel_values = (pixel_values - mean) / std
        return pixel_values


def settings_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `ImageSettings` in the dict of a `preprocessor_config.json` of any age.

    Older files say `"size": 512` and `reduce_labels`. If both `reduce_labels` and `do_reduce_labels` are there, the
    newer name wins.
    """
    config = dict(config)
    if "reduce_labels" in config:
        config.setdefault("do_reduce_labels", config["reduce_labels"])
    return {name: config[name] for name in _SETTINGS if config.get(name) is not None}


def _height_and_width(size: Any) -> tuple[int, int]:
    sides: Any = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise ValueError(f'size is {{"height": ..., "width": ...}} in pixels, or one number; got {size!r}')
    height, width = sides
    return height, width
