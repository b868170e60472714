"""The predictor of `evaluate`, which keeps the images that it was given."""

from __future__ import annotations

from typing import Any

from ray_segformer.predictor import SegformerPredictor
from ray_segformer.protocol import NAMES, Protocol


class EvaluationPredictor(SegformerPredictor):
    """A `SegformerPredictor` that shows images to the network by a `Protocol`, and keeps them.

    Its batches have the columns `path` and `image`.

    Args:
        source: see `SegformerPredictor`.
        protocol: the protocol.
        options: those of `SegformerPredictor`.
    """

    def __init__(self, source: Any, *, protocol: Protocol, **options: Any) -> None:
        super().__init__(source, **{name: getattr(protocol, name) for name in NAMES}, **options)

    def __call__(self, batch: Any) -> Any:
        """Predict a batch of `Dataset.map_batches`. The images stay: those with the worst scores are shown."""
        return {**super().__call__(batch), "image": batch["image"]}
