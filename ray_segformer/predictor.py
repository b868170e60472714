"""`SegformerPredictor`: batches of images in, class maps out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray

from ray_segformer import stage_times
from ray_segformer.air import BatchFormat, Checkpoint, Predictor, Preprocessor, installed
from ray_segformer.batch_columns import (
    error_column,
    errors_of,
    name_column,
    of_row,
    paths_of,
    predictions_to_arrow,
    stack,
)
from ray_segformer.checkpoint import SegformerCheckpoint, as_preprocessor, is_segformer, model_and_processor
from ray_segformer.images import MAX_PIXELS, ImageError, cause_of
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.pretrained import SegformerContent
from ray_segformer.segmenter import Segmenter

# The predictor consumes these columns. All other columns of a `map_batches` batch stay.
_CONSUMED = frozenset(("pixel_values", "original_size", "labels"))


class SegformerPredictor(Predictor):
    """Semantic segmentation with SegFormer, as a Ray `Predictor` and as a `Dataset.map_batches` class.

        predictor = SegformerPredictor.from_checkpoint(checkpoint)
        masks = predictor.predict({"image": images})["segmentation"]

        dataset.map_batches(
            SegformerPredictor,
            fn_constructor_args=(checkpoint,),
            compute=ActorPoolStrategy(min_size=1, max_size=5),
            batch_size=16,
        )

    A batch is a dict of arrays, an array, a DataFrame, or (on Ray 2.56 and newer) an Arrow table. It holds raw images,
    or the columns of `SegformerPreprocessor`. `pixel_values` of a float type count as already normalised. Without
    `original_size` the result has the size of `pixel_values`. A prediction has these columns:

    * `segmentation`: class ids `(height, width)` at the image's own size, uint8, or uint16 above 255 classes. It is one
      array `(N, height, width)` if all sizes agree, else an object array of N. It equals the result of transformers'
      `post_process_semantic_segmentation`: logits are resized bilinearly, then argmax.
    * `confidence`, with `confidence=True`: float32 `(height, width)`, the winner's softmax probability in each pixel.
    * `loss`, if the batch has `labels` or an annotation column: float32, transformers' `labels=` loss of that image
      alone. It is NaN if every pixel is ignored.
    * `error`, with `on_error="keep"`: null, or why the row's `segmentation` is null. `ray_segformer.images.cause_of`
      tells the cause of such a text, to count failures. Ray 2.6 has no nulls in such columns: there `error` is `""` and
      `segmentation` is `(0, 0)`.

    When `map_batches` calls it, it also returns the batch's other columns, but not the images.

    The network is this package's own (`ray_segformer.network`), and equals transformers' to rounding. It is tested on
    CPUs. It has not been run on a GPU yet.

    Args:
        source: a checkpoint, a transformers `SegformerForSemanticSegmentation`, a directory, a name on the Hub, or an
            `ObjectRef` of one of these.
        use_gpu: None for a GPU if the process has one; True or False to insist.
        runtime: "eager" runs torch, operation by operation. "compile" runs a program that torch compiles once for each
            machine, size and number of threads. "openvino" needs the extra of that name. "auto" is "eager".
        dtype: the dtype of the network's arithmetic. "auto" is "float32" on CPUs and "bfloat16" on GPUs, which is
            faster and less exact. "float16" is for GPUs.
        confidence: whether to add the column `confidence`.
        on_error: "raise" an error that names the row of an unreadable image, or "keep" the row.
        max_pixels: an image with more pixels is an error; see `SegformerPreprocessor`.
        image_column: the column of a raw batch with images.
        annotation_column: the column of a raw batch with annotations; None for none.
        reduce_labels: whether annotations are numbered as ADE20K's (0 is other); None for what the checkpoint says.
        label_map, label_colors: how annotations are stored; see `SegformerPreprocessor`.

    Raises:
        ValueError: an option has none of its values, or two options contradict each other.
        RuntimeError: `use_gpu=True` without a GPU, or a package that the runtime needs is not installed.
        CheckpointError: the source holds no SegFormer.
    """

    writes_into_batches = False

    def __init__(
        self,
        source: Any,
        *,
        use_gpu: bool | None = None,
        runtime: Literal["auto", "eager", "compile", "openvino"] = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        confidence: bool = False,
        on_error: Literal["raise", "keep"] = "raise",
        max_pixels: int = MAX_PIXELS,
        image_column: str = "image",
        annotation_column: str | None = None,
        reduce_labels: bool | None = None,
        label_map: Mapping[int, int] | None = None,
        label_colors: Mapping[tuple[int, int, int], int] | None = None,
    ) -> None:
        from ray_segformer.network import keep_freed_memory  # It imports torch, which tasks that preprocess do without.

        device = _device(use_gpu)
        options: dict[str, Any] = {"image_column": image_column, "annotation_column": annotation_column}
        options |= {"reduce_labels": reduce_labels, "on_error": on_error, "max_pixels": max_pixels}
        options |= {"label_map": label_map, "label_colors": label_colors}
        content, self._images, own_preprocessor = _load(source, _preprocessor_options(options))
        if _in_actor() and device == "cpu":
            keep_freed_memory()
        self._segmenter = Segmenter(
            content, self._images, device=device, runtime=runtime, dtype=dtype, confidence=confidence
        )
        self._confidence = confidence
        self._on_error = on_error
        self._ended: float | None = None  # when the batch before was done
        super().__init__(own_preprocessor or self._images)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, use_gpu: bool | None = None, **options: Any
    ) -> SegformerPredictor:
        """Load a predictor. All arguments are those of the class.

        Ray's `BatchPredictor` looks for `use_gpu` in this signature, and sets it for workers with a GPU.
        """
        return cls(checkpoint, use_gpu=use_gpu, **options)

    @classmethod
    def prepare_checkpoint(cls, checkpoint: Checkpoint, **options: Any) -> SegformerCheckpoint:
        """Return the checkpoint that `BatchPredictor` sends to its workers, in memory.

        Args:
            checkpoint: the user's checkpoint.
            options: those of the class. The checkpoint's preprocessor, which runs in the CPU stage, gets its share.
        """
        own = SegformerCheckpoint.from_checkpoint(checkpoint)
        return own.with_preprocessor_options(**_preprocessor_options(options))

    @classmethod
    def preferred_batch_format(cls) -> BatchFormat:
        """Return NumPy: images are arrays."""
        return BatchFormat.NUMPY

    def __call__(self, batch: Any) -> Any:
        """Predict a batch of `Dataset.map_batches`, of any batch format, and keep its other columns."""
        predictions: Any = self.predict(batch)
        consumed = _CONSUMED | {self._images.image_column}
        if isinstance(batch, pa.Table):
            for name in batch.column_names:
                if name not in consumed and name not in predictions.column_names:
                    predictions = predictions.append_column(batch.schema.field(name), batch.column(name))
        elif not isinstance(batch, np.ndarray):
            for name in batch:
                if name not in consumed and name not in predictions:
                    predictions[name] = batch[name].array if isinstance(batch, pd.DataFrame) else batch[name]
        return self.to_block(predictions)

    def pieces(self, batch: Any) -> Iterable[Any]:
        """Split a batch of huge images for `BatchPredictor`, which predicts one part at a time, to save memory."""
        if not isinstance(batch, dict) or "original_size" not in batch or not len(batch["original_size"]):
            return (batch,)
        from ray_segformer.network import pieces

        return pieces(batch, self._segmenter.bytes_per_pixel)

    def to_block(self, batch: Any) -> Any:
        """Return predictions as a block of a dataset: with `on_error="keep"` an Arrow table, which can hold nulls."""
        if self._on_error != "keep" or isinstance(batch, pa.Table):
            return batch
        return self._to_arrow(batch)

    def _to_arrow(self, predictions: Any) -> pa.Table:
        return predictions_to_arrow(predictions, self._segmenter.mask_dtype)

    # Without Ray's `**kwargs`: an unknown argument of `predict` is an error.
    def _predict_pandas(self, data: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]
        """Predict a DataFrame, and keep its index."""
        predictions = self._predict_numpy({name: data[name].to_numpy() for name in data})
        return pd.DataFrame({name: list(column) for name, column in predictions.items()}, index=data.index)

    def _predict_numpy(self, data: Any) -> dict[str, npt.NDArray[Any]]:  # type: ignore[override]
        """Predict a dict of arrays, or one array of images or of pixel values."""
        started = time.perf_counter()
        batch = self._preprocessed(data)
        pixel_values, sizes, labels = batch["pixel_values"], batch.get("original_size"), batch.get("labels")
        rows = len(pixel_values)
        if self._ended is not None:
            stage_times.count("waiting", started - self._ended, rows)
        errors = _row_errors(batch, rows, self._segmenter, self._on_error)
        masks, confidences, losses = self._segmenter.segment(pixel_values, sizes, labels, errors)
        predictions = {"segmentation": stack(masks, self._segmenter.mask_dtype, (0, 0))}
        if self._confidence:
            predictions["confidence"] = stack(confidences, np.float32, (0, 0))
        if labels is not None:
            predictions["loss"] = losses
        if self._on_error == "keep":
            predictions["error"] = error_column(errors)
        self._ended = time.perf_counter()
        causes = Counter(cause_of(error) for error in errors if error is not None)
        stage_times.count_batch(self._ended - started, causes)
        stage_times.report()
        return predictions

    def _preprocessed(self, data: Any) -> dict[str, Any]:
        """Return the batch with `pixel_values`, which raw images do not have yet."""
        import torch

        batch: Any = name_column(data, self._images.image_column) if isinstance(data, np.ndarray) else data
        if "pixel_values" not in batch:
            batch = self._images.preprocess(batch, threads=torch.get_num_threads())
        return dict(batch)


def _row_errors(
    batch: Mapping[str, Any], rows: int, segmenter: Segmenter, on_error: Literal["raise", "keep"]
) -> list[str | None]:
    """Return why each row cannot be predicted, None if it can.

    Raises:
        ImageError: a row cannot be predicted, and errors are not kept.
    """
    found = errors_of(batch, rows)
    errors: list[str | None] = found if on_error == "keep" else [None] * rows
    sizes, labels, paths = batch.get("original_size"), batch.get("labels"), paths_of(batch, rows)
    for row in [row for row in range(rows) if errors[row] is None]:
        if sizes is not None and not all(sizes[row]):
            raise ImageError(found[row] or f"row {row} of the batch has the size (0, 0)")
        unknown = [] if labels is None else segmenter.unknown_ids(labels[row])
        if unknown:
            expected = f"expected 0 to {segmenter.num_labels - 1}, or {segmenter.ignored}"
            why = f"wrong annotation: it has the class ids {unknown[:9]}; {expected}; see reduce_labels and label_map"
            errors[row] = of_row(row, paths[row], why)
            if on_error == "raise":
                raise ImageError(f'{errors[row]}. Pass on_error="keep" to keep such rows.')
    return errors


def _preprocessor_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the predictor's options that its `SegformerPreprocessor` needs, by that one's names."""
    names = ("on_error", "max_pixels", "image_column", "annotation_column", "label_map", "label_colors")
    own = {name: options[name] for name in names if name in options}
    reduce_labels = options.get("reduce_labels")
    return own if reduce_labels is None else {**own, "do_reduce_labels": reduce_labels}


def _load(source: Any, options: dict[str, Any]) -> tuple[SegformerContent, SegformerPreprocessor, Preprocessor | None]:
    """Return the content of a predictor's source, its image preprocessing, and a user's own preprocessor or None."""
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


def _device(use_gpu: bool | None) -> str:
    """Return "cuda" or "cpu"; None takes a GPU if there is one."""
    import torch

    if use_gpu and not torch.cuda.is_available():
        raise RuntimeError(
            "use_gpu=True, but this process sees no CUDA device; give the worker one (num_gpus_per_worker=1, or "
            "num_gpus=1 in map_batches), or leave use_gpu out"
        )
    return "cuda" if (torch.cuda.is_available() if use_gpu is None else use_gpu) else "cpu"


def _in_actor() -> bool:
    """Return whether this process is an actor of Ray's, whose memory settings we may change."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
