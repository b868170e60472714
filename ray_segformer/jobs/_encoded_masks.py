"""From a dataset of images to encoded masks: `BatchPredictor`, and the stage that encodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from ray_segformer.air import BatchPredictor, installed
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.images import MAX_PIXELS
from ray_segformer.jobs._cluster import ENCODING_CPUS
from ray_segformer.jobs._encode import EncodeMasks
from ray_segformer.predictor import SegformerPredictor
from ray_segformer.protocol import protocol_in


def encoded_masks(
    dataset: ray.data.Dataset,
    checkpoint: SegformerCheckpoint,
    options: dict[str, Any],
    palette: npt.NDArray[np.uint8] | None,
    resources: dict[str, Any],
    columns: Iterable[pa.Field] = (),
) -> ray.data.Dataset:
    """Segment a dataset, and encode the masks.

    Args:
        dataset: has `path`, `index`, `image`, `name` and `key`, as the datasets of an `ImageInput`.
        checkpoint: the model.
        options: arguments of `SegformerPredictor`. `on_error` is required.
        palette: uint8 `(classes, 3)`, the colours of overlays; None draws none.
        resources: arguments of `BatchPredictor.predict`, from `resources_for`.
        columns: those of the `ImageInput`. Default: none.

    Returns:
        A lazy dataset of the rows of `EncodeMasks`.
    """
    columns = list(columns)
    keep_columns = ["path", "index", "name", "key", *(column.name for column in columns)]
    # Overlays need the image, and parts of scenes their place; the preprocessor drops both. Cells are small.
    if palette is not None or columns:
        dataset = dataset.map_batches(_with_source, batch_format="pyarrow")
        keep_columns.append("source")
    predictor = BatchPredictor.from_checkpoint(checkpoint, SegformerPredictor, **options)
    if installed.HAS_AIR:
        images: dict[str, Any] = {name: options[name] for name in ("on_error", "max_pixels") if name in options}
        images["resize"] = protocol_in(options).resize_in_cpu_stage
        predictor.set_preprocessor(checkpoint.get_preprocessor(**images))
    predictions: ray.data.Dataset = predictor.predict(dataset, keep_columns=keep_columns, **resources)
    encode = EncodeMasks(palette, options.get("max_pixels", MAX_PIXELS), columns)
    return predictions.map_batches(encode, batch_size=resources["batch_size"], num_cpus=ENCODING_CPUS)


def _with_source(batch: pa.Table) -> pa.Table:
    return batch.append_column("source", batch.column("image"))
