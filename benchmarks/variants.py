"""Models of SegFormer's sizes with random weights, which is enough to measure time, and pixel values for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# Hidden sizes, depths, decoder's hidden size: table 6 of the paper.
VARIANTS = {
    "B0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "B1": ((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "B2": ((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "B3": ((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "B4": ((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "B5": ((64, 128, 320, 512), (3, 6, 40, 3), 768),
}


def pixels_of(photo: str, height: int, width: int, batch: int = 1) -> np.ndarray:
    """Return normalised pixel values (batch, 3, height, width) of a photo."""
    image = np.asarray(Image.open(photo).convert("RGB").resize((width, height)), np.float32)
    one = ((image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)
    return np.repeat(one[None].astype(np.float32), batch, axis=0)


def config_of(name: str) -> Any:
    """Return transformers' configuration of a variant, with 150 classes."""
    from transformers import SegformerConfig

    sizes, depths, decoder = VARIANTS[name]
    labels = {class_id: str(class_id) for class_id in range(150)}
    return SegformerConfig(hidden_sizes=list(sizes), depths=list(depths), decoder_hidden_size=decoder, id2label=labels)


def random_model(name: str, folder: str) -> str:
    """Write a model with random weights to a directory in `folder`, and return the directory."""
    from transformers import SegformerForSemanticSegmentation

    torch.manual_seed(0)
    directory = str(Path(folder, name))
    SegformerForSemanticSegmentation(config_of(name)).save_pretrained(directory)
    return directory
