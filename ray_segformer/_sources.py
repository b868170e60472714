"""What a predictor can be made from: a checkpoint, a model, a directory, a name, or a reference to one of these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ray

from ray_segformer.air import Checkpoint, Preprocessor, installed
from ray_segformer.checkpoint import SegformerCheckpoint, as_preprocessor, is_segformer, model_and_processor
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.pretrained import SegformerContent
from ray_segformer.protocol import protocol_in


def load_source(
    source: Any, options: dict[str, Any]
) -> tuple[SegformerContent, SegformerPreprocessor, Preprocessor | None]:
    """Return the content of a predictor's source, its image preprocessing, and a user's own preprocessor or None.

    Args:
        source: as for `SegformerPredictor`.
        options: arguments of the `SegformerPreprocessor`.

    Raises:
        TypeError: `source` has another type.
        ValueError: an option has none of its values, or labels cannot be reduced.
        CheckpointError: the source holds no SegFormer.
    """
    content, images, own = _loaded(source, options)
    if images.annotation_column and images.do_reduce_labels and 255 not in content.ignored_ids:
        raise ValueError(
            "reduce_labels: class id 0 becomes 255, as in transformers, but 255 is a class of this model, which "
            f"ignores {content.ignore_index}; reduce the annotations yourself, and pass reduce_labels=False"
        )
    return content, images, own


def _loaded(
    source: Any, options: dict[str, Any]
) -> tuple[SegformerContent, SegformerPreprocessor, Preprocessor | None]:
    if isinstance(source, ray.ObjectRef):
        source = ray.get(source)
    if isinstance(source, Checkpoint):  # Test this before paths: a checkpoint's __fspath__ raises.
        if not isinstance(source, SegformerCheckpoint):
            source = installed.dict_of(source) or SegformerCheckpoint.from_checkpoint(source)
    elif isinstance(source, (str, os.PathLike)):
        source = SegformerCheckpoint.from_pretrained(source)
    if isinstance(source, SegformerCheckpoint):
        return source.content, source.get_preprocessor(**options), None
    model, processor = model_and_processor(source) if isinstance(source, Mapping) else (source, None)
    if not is_segformer(model):
        raise TypeError(
            "expected a checkpoint, a transformers SegformerForSemanticSegmentation, a directory, a name on the Hub, "
            f"or an ObjectRef of one of these; got {type(model).__name__}"
        )
    own = None
    if isinstance(processor, Preprocessor) and not isinstance(processor, SegformerPreprocessor):
        own, processor = processor, None
    images = SegformerPreprocessor.from_config(as_preprocessor(processor).to_config(), **options)
    return SegformerContent.from_model(model, images), images, own


def preprocessor_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the predictor's options that its `SegformerPreprocessor` needs, by that one's names."""
    names = ("on_error", "max_pixels", "image_column", "annotation_column", "label_map", "label_colors")
    own = {name: options[name] for name in names if name in options}
    protocol = protocol_in(options)
    own["resize"] = protocol.resize_in_cpu_stage
    if own["resize"] == "none":
        own["batch_size"] = 1  # images that are not resized may be large: a task holds one at a time
    if own.get("annotation_column") and not protocol.has_loss:
        raise ValueError("annotation_column asks for the loss, which windows and scales do not have; leave one out")
    reduce_labels = options.get("reduce_labels")
    return own if reduce_labels is None else {**own, "do_reduce_labels": reduce_labels}
