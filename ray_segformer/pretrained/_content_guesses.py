"""What the files of a checkpoint leave open, and what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer._guesses import Guess
from ray_segformer.pretrained._image_settings import CONFIG_NAME as PREPROCESSOR_NAME

_OF_NETWORK = ("segformer.", "decode_head.")  # Names of other tensors, which are not used, begin otherwise.


def guesses_of(
    source: str,
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    weights: Mapping[str, npt.NDArray[Any]],
    classes: int,
) -> list[Guess]:
    """Return the warnings about a checkpoint.

    Args:
        source, config, preprocessor, weights: see `SegformerContent`.
        classes: the number of classes; 0 of an encoder alone.
    """
    guesses = []
    if not preprocessor:
        message = (
            f"{source} has no {PREPROCESSOR_NAME}: images are resized to 512 x 512, and normalised by "
            "ImageNet's statistics (SegFormer's defaults). If the model was trained otherwise, add the file"
        )
        guesses.append(Guess("no-preprocessor-config", message))
    ids = sorted(map(int, config.get("id2label") or {}))
    if classes and ids and ids[-1] >= classes:
        beyond = ", ".join(str(number) for number in ids if number >= classes)
        message = (
            f"{source}: id2label names the class ids {beyond}, but those of its {classes} classes are "
            f"0 to {classes - 1}; ids without a name are called LABEL_<id>"
        )
        guesses.append(Guess("class-ids-not-in-model", message))
    with np.errstate(invalid="ignore"):  # NumPy warns of a sum of two infinities
        sums = {name: array.sum(dtype=np.float64) for name, array in weights.items() if name.startswith(_OF_NETWORK)}
    broken = [name for name, total in sums.items() if not np.isfinite(total)]  # then a number is not, either
    if broken:
        shown = ", ".join(broken[:3]) + (" and others" if len(broken) > 3 else "")
        message = (
            f"{source}: {shown} hold NaN or infinite numbers, so masks mean nothing; the training failed, or "
            "the file is damaged"
        )
        guesses.append(Guess("weights-not-finite", message))
    if classes == 1:
        message = (
            f"{source} has one class: without a foreground_threshold (--foreground-threshold), such as 0.5, "
            "every pixel of a mask gets class 0, as in transformers; with one, foreground is 1"
        )
        guesses.append(Guess("one-class", message))
    return guesses
