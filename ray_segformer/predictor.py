"""`SegformerPredictor`: batches of images in, class maps out."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import ray

from ray_segformer import stage_times
from ray_segformer.air import BatchFormat, Checkpoint, Predictor, Preprocessor, installed
from ray_segformer.checkpoint import SegformerCheckpoint, as_preprocessor, is_segformer, model_and_processor
from ray_segformer.checkpoint_directory import SegformerContent
from ray_segformer.images import MAX_PIXELS, ImageError, cause_of
from ray_segformer.preprocessor import (
    SegformerPreprocessor,
    error_column,
    errors_of,
    name_column,
    of_row,
    paths_of,
    stack,
)

# Columns that the predictor uses up; all others of a `map_batches` batch stay.
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

    A batch is a dict of arrays, an array, a DataFrame, or (on Ray 2.56 and newer) an Arrow table, with either raw
    images or the columns of `SegformerPreprocessor`. `pixel_values` of a float type count as already normalised, and
    without `original_size` the result has their size. A prediction has the columns

    * `segmentation`: class ids `(height, width)` at the image's own size, uint8, or uint16 above 255 classes; one
      array `(N, height, width)` where all sizes agree, else an object array of N. As transformers'
      `post_process_semantic_segmentation` makes it: logits resized bilinearly, then argmax.
    * `confidence`, with `confidence=True`: float32 `(height, width)`, the winner's softmax probability in each pixel.
    * `loss`, where the batch has `labels` (or an annotation column): float32, transformers' `labels=` loss of that
      image alone; NaN where every pixel is ignored.
    * `error`, with `on_error="keep"`: null, or why the row's `segmentation` is null, of which
      `ray_segformer.images.cause_of` makes one of a few causes to count. Ray 2.6 has no nulls in such
      columns: there they are empty, `""` and `(0, 0)`.

    Called by `map_batches` it also returns the batch's other columns, but not the images.

    The network is this package's own (`ray_segformer.network`), equal to transformers' to rounding. Tested on CPU. On a
    GPU this code has not been run yet.

    Args:
        source: a checkpoint, a transformers `SegformerForSemanticSegmentation`, a directory, a name on the Hub, or an
            `ObjectRef` of one of these.
        use_gpu: None for a GPU if the process has one; True or False to insist.
        runtime: "eager" is torch, operation by operation; "compile", a program that torch compiles once for each
            machine, size and number of threads; "openvino", with the extra of that name. "auto" is "eager".
        dtype: of the network's arithmetic. "auto" is "float32" on CPUs and "bfloat16" on GPUs, which is faster and less
            exact; "float16" is for GPUs.
        confidence: whether to add the column of that name.
        on_error: "raise" an error that names the row of an unreadable image, or "keep" the row.
        max_pixels: images of more are errors; see `SegformerPreprocessor`.
        image_column, annotation_column: where a raw batch has its images and, optionally, annotations.
        reduce_labels: whether annotations are ADE20K's (0 is other); None for what the checkpoint says.

    Raises:
        ValueError: an option has none of its values, or they do not go together.
        RuntimeError: `use_gpu=True` without a GPU, or what the runtime needs is not installed.
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
    ):
        import torch  # here, not above: tasks that only preprocess import this module too

        from ray_segformer.network import Groups, keep_freed_memory

        if use_gpu and not torch.cuda.is_available():
            raise RuntimeError(
                "use_gpu=True, but this process sees no CUDA device; give the worker one (num_gpus_per_worker=1, or "
                "num_gpus=1 in map_batches), or leave use_gpu out"
            )
        on_gpu = torch.cuda.is_available() if use_gpu is None else use_gpu
        self._device = torch.device("cuda" if on_gpu else "cpu")
        options = _preprocessor_options(on_error, max_pixels, image_column, annotation_column, reduce_labels)
        content, self._images, own_preprocessor = _load(source, options)
        if _in_actor() and not on_gpu:
            keep_freed_memory()
        self._runtime = content.make_runtime(runtime=runtime, dtype=dtype, device=self._device.type)
        self._groups = Groups(self._runtime)
        self._ended: float | None = None  # when the batch before was done
        self._num_labels = content.num_labels
        self._ignored = content.config.get("semantic_loss_ignore_index", 255)
        self._confidence = confidence
        self._on_error = on_error
        super().__init__(own_preprocessor or self._images)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
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
    ) -> SegformerPredictor:
        """Load a predictor; all arguments are those of the class."""
        return cls(
            checkpoint,
            use_gpu=use_gpu,
            runtime=runtime,
            dtype=dtype,
            confidence=confidence,
            on_error=on_error,
            max_pixels=max_pixels,
            image_column=image_column,
            annotation_column=annotation_column,
            reduce_labels=reduce_labels,
        )

    @classmethod
    def prepare_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        on_error: Literal["raise", "keep"] = "raise",
        max_pixels: int = MAX_PIXELS,
        image_column: str = "image",
        annotation_column: str | None = None,
        reduce_labels: bool | None = None,
        **_: Any,
    ) -> SegformerCheckpoint:
        """What `BatchPredictor` sends to the workers: the content, and a CPU stage with the predictor's options."""
        options = _preprocessor_options(on_error, max_pixels, image_column, annotation_column, reduce_labels)
        return SegformerCheckpoint.from_checkpoint(checkpoint).with_preprocessor_options(**options)

    @classmethod
    def preferred_batch_format(cls) -> BatchFormat:
        """NumPy: images are arrays."""
        return BatchFormat.NUMPY

    def __call__(self, batch: Any) -> Any:
        """Predict a batch of `Dataset.map_batches`, of any batch format, and keep its other columns."""
        predictions = self.predict(batch)
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
        """What `BatchPredictor` predicts one after the other: a batch of huge images in parts that memory holds."""
        if not isinstance(batch, dict) or "original_size" not in batch or not len(batch["original_size"]):
            return (batch,)
        from ray_segformer.network import pieces

        return pieces(batch, np.dtype(self._mask_dtype).itemsize + 4 * self._confidence)

    def to_block(self, batch: Any) -> Any:
        """What goes into a dataset: with `on_error="keep"` an Arrow table, so that any block can hold nulls."""
        if self._on_error != "keep" or isinstance(batch, pa.Table):
            return batch
        return self._to_arrow(batch)

    def _to_arrow(self, predictions: Any) -> pa.Table:
        columns = {}
        for name in predictions:
            values = predictions[name]
            values = values.to_numpy() if isinstance(values, pd.Series) else values
            if name in ("segmentation", "confidence"):
                dtype = self._mask_dtype if name == "segmentation" else np.float32
                columns[name] = installed.nullable_tensor_array(list(values), dtype, ndim=2)
            elif name == "error":
                columns[name] = pa.array(errors_of({name: values}, len(values)), pa.string())
            else:
                columns[name] = installed.convert_to_arrow({name: values}).column(0)
        return pa.table(columns)

    def _predict_pandas(self, data: pd.DataFrame) -> pd.DataFrame:
        """Predict a DataFrame; its index is kept."""
        predictions = self._predict_numpy({name: data[name].to_numpy() for name in data})
        return pd.DataFrame({name: list(column) for name, column in predictions.items()}, index=data.index)

    def _predict_numpy(self, data: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predict a dict of arrays, or one array of images or of pixel values."""
        import torch

        from ray_segformer.network import upsampled_argmax

        started = time.perf_counter()
        batch: Mapping[str, Any] = (
            name_column(data, self._images.image_column) if isinstance(data, np.ndarray) else data
        )
        if "pixel_values" not in batch:
            batch = self._images.preprocess(batch, threads=torch.get_num_threads())
        pixel_values, sizes, labels = batch["pixel_values"], batch.get("original_size"), batch.get("labels")
        rows = len(pixel_values)
        if self._ended is not None:
            stage_times.count("waiting", started - self._ended, rows)
        errors = errors_of(batch if self._on_error == "keep" else {}, rows)
        if labels is not None:
            paths = paths_of(batch, rows)
            for row in [row for row in range(rows) if errors[row] is None]:
                errors[row] = self._error_of_labels(labels[row], row, paths[row])

        masks: list[np.ndarray | None] = [None if error is None else installed.NULL_TENSOR for error in errors]
        confidences = list(masks)
        losses = np.full(rows, np.nan, np.float32)
        for some, logits in self._groups.run(self._logits, pixel_values, errors):
            for row, row_logits in zip(some, logits, strict=True):
                own_size = np.shape(pixel_values[row])[-2:]
                size = own_size if sizes is None else sizes[row]
                if not all(size):
                    raise ImageError(errors_of(batch, rows)[row] or f"row {row} of the batch has the size (0, 0)")
                size = (int(size[0]), int(size[1]))
                with stage_times.timed("argmax"):
                    if self._confidence:
                        masks[row], confidences[row] = upsampled_argmax(row_logits, size, confidence=True)
                    else:
                        masks[row] = upsampled_argmax(row_logits, size)
                if labels is not None:
                    losses[row] = self._loss(row_logits, labels[row])

        predictions = {"segmentation": stack(masks, self._mask_dtype, (0, 0))}
        if self._confidence:
            predictions["confidence"] = stack(confidences, np.float32, (0, 0))
        if labels is not None:
            predictions["loss"] = losses
        if self._on_error == "keep":
            predictions["error"] = error_column(errors)
        self._ended = time.perf_counter()
        stage_times.count_batch(
            self._ended - started, Counter(cause_of(error) for error in errors if error is not None)
        )
        stage_times.hand_over()
        return predictions

    @property
    def _mask_dtype(self) -> type[np.unsignedinteger]:
        return np.uint8 if self._num_labels <= 255 else np.uint16

    def _logits(self, pixel_values: np.ndarray) -> Any:
        """Logits (rows, height / 4, width / 4, classes) of pixel values (rows, 3, height, width)."""
        import torch

        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values of a row are (3, height, width), not {pixel_values.shape[1:]}")
        with stage_times.timed("network", len(pixel_values)), torch.inference_mode():
            tensor = torch.from_numpy(pixel_values).to(self._device)
            tensor = tensor.float() if tensor.is_floating_point() else self._images.normalize(tensor)
            return self._runtime(tensor)

    def _error_of_labels(self, labels: Any, row: int, path: Any) -> str | None:
        """What is wrong with the class ids of a row, for which there would be no loss."""
        ids = np.unique(labels)
        unknown = ids[((ids < 0) | (ids >= self._num_labels)) & (ids != self._ignored)]
        if self._num_labels == 1 or not len(unknown):
            return None
        expected = f"expected 0 to {self._num_labels - 1}, or {self._ignored}; see reduce_labels"
        error = of_row(row, path, f"wrong annotation: it has the class ids {unknown[:9].tolist()}; {expected}")
        if self._on_error == "raise":
            raise ImageError(f'{error}. Pass on_error="keep" to keep such rows.')
        return error

    def _loss(self, logits: Any, labels: np.ndarray) -> float:
        """The loss of one image: its logits (h, w, classes) resized to its labels (height, width)."""
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            target = torch.from_numpy(np.asarray(labels).astype(np.int64))[None].to(self._device)
            resized = functional.interpolate(
                logits.permute(2, 0, 1)[None], size=target.shape[-2:], mode="bilinear", align_corners=False
            )
            if self._num_labels > 1:
                return functional.cross_entropy(resized, target, ignore_index=self._ignored).item()
            valid = ((target >= 0) & (target != self._ignored)).float()
            loss = functional.binary_cross_entropy_with_logits(resized.squeeze(1), target.float(), reduction="none")
            return (loss * valid).mean().item()


def _preprocessor_options(
    on_error: str, max_pixels: int, image_column: str, annotation_column: str | None, reduce_labels: bool | None
) -> dict[str, Any]:
    """The predictor's options in the words of `SegformerPreprocessor`."""
    options: dict[str, Any] = {
        "on_error": on_error,
        "max_pixels": max_pixels,
        "image_column": image_column,
        "annotation_column": annotation_column,
    }
    if reduce_labels is not None:
        options["do_reduce_labels"] = reduce_labels
    return options


def _load(source: Any, options: dict[str, Any]) -> tuple[SegformerContent, SegformerPreprocessor, Preprocessor | None]:
    """Content and image preprocessing of whatever a predictor is made from, and a user's own preprocessor."""
    if isinstance(source, ray.ObjectRef):
        source = ray.get(source)
    if isinstance(source, Checkpoint):  # before paths: a checkpoint has __fspath__, which only raises
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


def _in_actor() -> bool:
    """Whether this process is an actor of Ray's, which is ours to tune."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
