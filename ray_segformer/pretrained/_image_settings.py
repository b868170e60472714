"""What `preprocessor_config.json` says: how an image becomes the network's input, in transformers' words."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

CONFIG_NAME = "preprocessor_config.json"
"""The file that says how images are resized and normalised."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_SETTINGS = (
    *("size", "do_resize", "resample", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_reduce_labels"),
)
# These change no pixel: they name classes, formats and sources, or go with a step that another setting switches on.
_WITHOUT_EFFECT = frozenset(
    (
        *("image_processor_type", "feature_extractor_type", "processor_class", "image_processor", "feature_extractor"),
        *("auto_map", "trust_remote_code", "name_or_path", "base_model_name_or_path", "transformers_version"),
        *("model_type", "architectures", "id2label", "label2id", "num_labels", "dtype", "torch_dtype", "device"),
        *("attn_implementation", "quantization_config", "torchscript", "custom_pipelines", "disable_grouping"),
        *("data_format", "input_data_format", "return_tensors", "image_seq_length", "return_segmentation_scores"),
        *("reduce_labels", "do_convert_rgb", "default_to_square", "crop_size", "pad_size", "size_divisor"),
    )
)
# All classes agree about these, or the steps that they belong to are there anyway.
_SAME_DEFAULTS = frozenset(("do_rescale", "rescale_factor", "do_reduce_labels"))
# Classes of transformers that do the same to an image, if the file says all settings. Some crop by default, in this or
# an earlier version, so their files also say that they do not. All others have further steps or other roundings.
_LIKE_SEGFORMER = frozenset(("Blip", "OneFormer", "Pvt", "Siglip", "ViT"))
_CROP_BY_DEFAULT = frozenset(
    ("Beit", "Bit", "CLIP", "ChineseCLIP", "DeiT", "Flava", "MobileNetV1", "MobileNetV2", "Perceiver")
)
# The settings of each step.
_NEEDED = {
    "do_resize": ("size", "resample"),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
}
_NESTED = ("image_processor", "feature_extractor")  # where a `processor_config.json` has them
_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})


class ImageSettings:
    """The settings of transformers' `SegformerImageProcessor`, with its defaults.

    Args:
        size: what images are resized to, in pixels: `{"height": h, "width": w}`, `(h, w)`, or one number for a square.
            `{"shortest_edge": s}`, with or without `"longest_edge"`, and `{"max_height": h, "max_width": w}` keep the
            aspect ratio.
        do_resize: whether to resize images.
        resample: Pillow's number of the resize filter (2 is bilinear).
        do_rescale: whether `normalize` multiplies by `rescale_factor`.
        rescale_factor: the factor.
        do_normalize: whether `normalize` subtracts `image_mean` and divides by `image_std`.
        image_mean: one number for each channel, or one for all, of rescaled pixels.
        image_std: one number for each channel, or one for all, of rescaled pixels.
        do_reduce_labels: whether to map class id 0 to 255 and k to k - 1 (ADE20K).

    Attributes:
        height: of the resized image. If the aspect ratio is kept: the limit of the height, or the shortest edge.
        width: the same for the width.

    Raises:
        ValueError: a setting has an invalid value.
    """

    def __init__(
        self,
        size: float | Sequence[float] | Mapping[str, float] = 512,
        *,
        do_resize: bool = True,
        resample: int = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] = IMAGENET_MEAN,
        image_std: float | Sequence[float] = IMAGENET_STD,
        do_reduce_labels: bool = False,
    ) -> None:
        self.size = _size(size)
        self.height = self.size.get("height") or self.size.get("max_height") or self.size["shortest_edge"]
        self.width = self.size.get("width") or self.size.get("max_width") or self.size["shortest_edge"]
        self.do_resize = _flag("do_resize", do_resize)
        self.resample = Image.Resampling(resample)
        self.do_rescale = _flag("do_rescale", do_rescale)
        self.rescale_factor = _finite("rescale_factor", rescale_factor)
        self.do_normalize = _flag("do_normalize", do_normalize)
        self.image_mean = _by_channel("image_mean", image_mean)
        self.image_std = _by_channel("image_std", image_std)
        if 0 in self.image_std:
            raise ValueError(f"image_std: pixels are divided by it, so it must not contain 0; got {self.image_std}")
        self.do_reduce_labels = _flag("do_reduce_labels", do_reduce_labels)

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
            "size": dict(self.size),
        }

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write `preprocessor_config.json` into `directory`. Transformers loads it, too."""
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, CONFIG_NAME), "w", encoding="utf-8") as file:
            json.dump(self.to_config(), file, indent=2, sort_keys=True)
            file.write("\n")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width to which an image of a size is resized, as transformers' processor does it."""
        size = self.size
        if "height" in size:
            return self.height, self.width
        if "max_height" in size:
            scale = min(self.height / height, self.width / width)
            return max(1, int(height * scale)), max(1, int(width * scale))
        short, long = sorted((height, width))
        edge: float = size["shortest_edge"]
        new_short = size["shortest_edge"]
        if long / short * edge > size.get("longest_edge", math.inf):
            edge = size["longest_edge"] * short / long
            new_short = max(1, round(edge))
        new_long = long if new_short == short else int(edge * long / short)
        return (new_short, new_long) if height <= width else (new_long, new_short)

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
    newer name wins, as in transformers 5. The settings may be nested in a `processor_config.json`. They may be those of
    another class of transformers that does the same to an image. Such a class has other defaults: it must say all.
    A step that is null is off, and one number for `size` is the short side if `default_to_square` is false, as in
    transformers.

    Raises:
        ValueError: a setting would change pixels in a way that is not supported, or is null although its step is on;
            the message names it.
    """
    for name in _NESTED:
        if isinstance(config.get(name), Mapping) and not set(_SETTINGS) & set(config):
            return settings_in(config[name])
    settings = {name: config[name] for name in _SETTINGS if config.get(name) is not None}
    settings |= {step: False for step in _NEEDED if step in config and config[step] is None}
    if config.get("default_to_square") is False and isinstance(settings.get("size"), (int, float)):
        settings["size"] = {"shortest_edge": settings["size"]}
    if "do_reduce_labels" not in settings and config.get("reduce_labels") is not None:
        settings["do_reduce_labels"] = config["reduce_labels"]
    known = _WITHOUT_EFFECT.union(_SETTINGS)
    refused = sorted(name for name in config if name not in known and not name.startswith("_") and config[name])
    if refused:
        shown = ", ".join(f"{name} {config[name]!r}" for name in refused)
        raise ValueError(
            f"not supported, and it may change pixels: {shown}; supported are {', '.join(_SETTINGS)}. If it makes no "
            "difference for your images, remove it from the file"
        )
    _check_class(config, settings)
    for step, needed in _NEEDED.items():
        nulls = [name for name in needed if name in config and config[name] is None]
        if nulls and settings.get(step, True):
            raise ValueError(f"{', '.join(nulls)}: null, although {step} is on; write a value, or remove the entry")
    return settings


def _check_class(config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Check that the class of a file does to an image what `settings` say, and no more."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "Segformer")
    name = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind)
    if name == "Segformer":
        return
    if name not in _LIKE_SEGFORMER | _CROP_BY_DEFAULT:
        raise ValueError(
            f"{kind} does other things to an image than SegformerImageProcessor; if this file "
            "lists all steps, set its image_processor_type to SegformerImageProcessor"
        )
    missing = [setting for setting in _SETTINGS if setting not in settings and setting not in _SAME_DEFAULTS]
    if name in _CROP_BY_DEFAULT and "do_center_crop" not in config:
        missing.append("do_center_crop")
    if not isinstance(config.get("size"), Mapping) and "default_to_square" not in config and "size" not in missing:
        missing.append("default_to_square")
    if missing:
        raise ValueError(
            f"{kind} has other defaults than SegformerImageProcessor, and the file does not say "
            f"{', '.join(missing)}; add them"
        )


def _flag(name: str, value: Any) -> bool:
    if value not in (False, True):
        raise ValueError(f"{name} is true or false, not {value!r}")  # the text "false" would be true
    return bool(value)


def _size(size: Any) -> dict[str, int]:
    """Return a size in transformers' words, of whole numbers."""
    if isinstance(size, Mapping):
        sides = {name: value for name, value in size.items() if value is not None}
    elif isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        sides = {"height": size[0], "width": size[1]}
    else:
        sides = {"height": size, "width": size}
    if set(sides) not in _SIZES or not all(_is_whole(side) for side in sides.values()):
        raise ValueError(
            'size is {"height": ..., "width": ...}, (height, width), one number, {"shortest_edge": ...} with or '
            f'without "longest_edge", or {{"max_height": ..., "max_width": ...}}, in whole pixels; got {size!r}'
        )
    if sides.get("longest_edge", math.inf) < sides.get("shortest_edge", 0):
        raise ValueError(f"size: longest_edge is at least shortest_edge; got {size!r}")
    return {name: int(side) for name, side in sides.items()}


def _is_whole(side: Any) -> bool:
    is_number = isinstance(side, (int, float)) and not isinstance(side, bool)
    return is_number and 1 <= side < math.inf and side == int(side)


def _by_channel(name: str, values: Any) -> tuple[float, ...]:
    """Return a statistic for each of the three channels."""
    numbers = (values,) * 3 if isinstance(values, (int, float)) else tuple(values)
    if len(numbers) != 3:
        raise ValueError(f"{name} holds three numbers, or one for all channels, not {numbers}")
    return tuple(_finite(name, number) for number in numbers)


def _finite(name: str, number: Any) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{name} is a finite number, not {number!r}")
    return float(number)
