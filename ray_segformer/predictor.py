"""`SegformerPredictor`: batches of images in, class maps out."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import ray

from ray_segformer import _stage_times as stage_times
from ray_segformer._batch_columns import (
    RowErrors,
    as_arrays,
    consumed_for,
    error_column,
    is_preprocessed,
    labels_of,
    name_column,
    predictions_to_arrow,
    stack,
    with_other_columns,
)
from ray_segformer._segmenter import Segmenter, check_foreground_threshold
from ray_segformer._sources import load_source, preprocessor_options
from ray_segformer.air import BatchFormat, Checkpoint, Predictor
from ray_segformer.checkpoint import SegformerCheckpoint
from ray_segformer.images import MAX_PIXELS, ImageError, cause_of, cells
from ray_segformer.network import keep_freed_memory
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.protocol import protocol_in


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
      `post_process_semantic_segmentation`: logits are resized bilinearly, then argmax. A model of one class
      gives 0 everywhere, unless `foreground_threshold` tells foreground from background.
    * `confidence`, with `confidence=True`: float32 `(height, width)`, the winner's softmax probability in each pixel.
      For a model of one class, it is the sigmoid of the resized logit: the probability of foreground.
    * `loss`, if the batch has `labels` or an annotation column: float32, transformers' `labels=` loss of that image
      alone. It leaves out the model's own `semantic_loss_ignore_index` and 255, which stands for null annotations and
      for 0 where labels are reduced. (255 counts if the model has a class 255 and another ignored index.) The loss is
      NaN if every pixel is ignored. For a model of one class, labels are 1 for foreground and 0 for background.
    * `error`, with `on_error="keep"`: null, or why the row's `segmentation` is null. `ray_segformer.images.cause_of`
      tells the cause of such a text, to count failures. Ray 2.6 has no nulls in such columns: there `error` is `""` and
      `segmentation` is `(0, 0)`.

    When `map_batches` calls it, it also returns the batch's other columns, but not the images.

    The network is this package's own (`ray_segformer.network`), and equals transformers' to rounding. It is tested on
    CPUs. It has not been run on a GPU yet.

    Args:
        source: a checkpoint, a transformers model, a directory, a name on the Hub, or an `ObjectRef` of one of these.
        use_gpu: None uses a GPU if the process sees one. True requires one. False uses the CPU.
        runtime: "eager" (torch), "compile" (a program that torch compiles once for each machine, size and number of
            threads) or "openvino" (needs that extra). "auto" is eager, and on CPUs "compile" once the program is there.
        dtype: the dtype of the network's arithmetic. "auto" is "float32" on CPUs and "bfloat16" on GPUs, which is
            faster and less exact. "float16" is for GPUs.
        confidence: whether to add the column `confidence`.
        foreground_threshold: for a model of one class: masks are 1 where the sigmoid of the logit is above this number,
            which is above 0 and below 1, and 0 elsewhere, as in mmsegmentation. None for masks of zeros.
        resize, window, stride, flip, scales: how images are shown to the network; see `Protocol`. There is no
            `loss` with `window`, or with other `scales` than 1.
        on_error: "raise" an error that names the row of an unreadable image, or "keep" the row. This holds for any
            other exception of a row, too, except a MemoryError or torch's RuntimeError: the machine lacks something.
        max_pixels: an image with more pixels is an error; see `SegformerPreprocessor`.
        image_column: the column of a raw batch with images.
        annotation_column: the column of a raw batch with annotations; None for none.
        reduce_labels: whether annotations are numbered as ADE20K's (0 is other); None for what the checkpoint says.
        label_map, label_colors: how annotations are stored; see `SegformerPreprocessor`.

    Raises:
        TypeError: `source` has another type, or an option is unknown.
        ValueError: an option has an invalid value, or options contradict each other or do not fit the model.
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
        foreground_threshold: float | None = None,
        resize: Literal["square", "short-side", "none"] | None = None,
        window: int | None = None,
        stride: int | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1,),
        on_error: Literal["raise", "keep"] = "raise",
        max_pixels: int = MAX_PIXELS,
        image_column: str = "image",
        annotation_column: str | None = None,
        reduce_labels: bool | None = None,
        label_map: Mapping[int, int] | None = None,
        label_colors: Mapping[tuple[int, int, int], int] | None = None,
    ) -> None:
        device = _device(use_gpu)
        options: dict[str, Any] = {"image_column": image_column, "annotation_column": annotation_column}
        options |= {"reduce_labels": reduce_labels, "label_map": label_map, "label_colors": label_colors}
        options |= {"on_error": on_error, "max_pixels": max_pixels, "resize": resize}
        options |= {"window": window, "stride": stride, "flip": flip, "scales": scales}
        content, self._images, own_preprocessor = load_source(source, preprocessor_options(options))
        if _in_actor() and device == "cpu":
            keep_freed_memory()
        self._segmenter = Segmenter(
            content.make_runtime(runtime=runtime, dtype=dtype, device=device),
            self._images,
            num_labels=content.num_labels,
            ignored=content.ignored_ids,
            ignore_index=content.ignore_index,
            device=device,
            confidence=confidence,
            foreground_threshold=foreground_threshold,
            protocol=protocol_in(options),
            smallest_side=content.smallest_side,
        )
        self._confidence, self._on_error = confidence, on_error
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
            options: those of the class. Their names, and values that are one of a few, are checked here.
        """
        _check_options(cls, options)
        own = SegformerCheckpoint.from_checkpoint(checkpoint)
        protocol_in(options).check_window(own.content.smallest_side)
        check_foreground_threshold(options.get("foreground_threshold"), own.content.num_labels)
        return own.with_preprocessor_options(**preprocessor_options(options))

    @classmethod
    def preferred_batch_format(cls) -> BatchFormat:
        """Return NumPy: images are arrays."""
        return BatchFormat.NUMPY

    # Without Ray's `**kwargs`, here and below: an unknown argument of `predict` is an error.
    def predict(self, data: Any) -> Any:  # type: ignore[override]
        """Predict a batch, as Ray's `Predictor` does. A dict may also hold lists. A DataFrame keeps its index."""
        predictions: Any = super().predict(as_arrays(data))
        if isinstance(data, pd.DataFrame):
            predictions.index = data.index  # Ray converts to NumPy and back
        return predictions

    def __call__(self, batch: Any) -> Any:
        """Predict a batch of `Dataset.map_batches`, of any batch format, and keep its other columns."""
        predictions: Any = self.predict(batch)
        consumed = consumed_for(predictions) | {self._images.image_column}
        return self.to_block(with_other_columns(predictions, batch, consumed))

    def pieces(self, batch: Any) -> Iterable[Any]:
        """Split a batch of huge images for `BatchPredictor`, which predicts one part at a time, to save memory."""
        if not isinstance(batch, dict) or "original_size" not in batch or not len(batch["original_size"]):
            return (batch,)
        from ray_segformer.network import pieces

        return pieces(batch, self._segmenter.bytes_per_pixel)

    def to_block(self, batch: Any) -> Any:
        """Return predictions as a block of a dataset: with `on_error="keep"` an Arrow table, which can hold nulls."""
        return batch if self._on_error != "keep" or isinstance(batch, pa.Table) else self._to_arrow(batch)

    def _to_arrow(self, predictions: Any) -> pa.Table:
        return predictions_to_arrow(predictions, self._segmenter.mask_dtype)

    def _predict_pandas(self, data: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]
        """Predict a DataFrame, and keep its index."""
        predictions = self._predict_numpy({name: data[name].to_numpy() for name in data})
        return pd.DataFrame({name: list(column) for name, column in predictions.items()}, index=data.index)

    def _predict_numpy(self, data: Any) -> dict[str, npt.NDArray[Any]]:  # type: ignore[override]
        """Predict a dict of arrays, or one array of images or of pixel values."""
        started = time.perf_counter()
        batch = _preprocessed(data, self._images)
        pixel_values, sizes, labels = batch["pixel_values"], batch.get("original_size"), labels_of(batch)
        rows = len(pixel_values)
        if self._ended is not None:
            stage_times.count("waiting", started - self._ended, rows)
        errors = _checked(batch, rows, self._segmenter, self._on_error)
        masks, confidences, losses = self._segmenter.segment(pixel_values, sizes, labels, errors.texts, errors.add)
        if self._images.annotation_column in batch:
            losses[[cell is None for cell in cells(batch[self._images.annotation_column])]] = np.nan
        predictions = {"segmentation": stack(masks, self._segmenter.mask_dtype, (0, 0))}
        if self._confidence:
            predictions["confidence"] = stack(confidences, np.float32, (0, 0))
        if labels is not None:
            predictions["loss"] = losses
        if self._on_error == "keep":
            predictions["error"] = error_column(errors.texts)
        self._ended = time.perf_counter()
        causes = Counter(cause_of(error) for error in errors.texts if error is not None)
        stage_times.count_batch(self._ended - started, causes)
        stage_times.report()
        return predictions


def _preprocessed(data: Any, images: SegformerPreprocessor) -> dict[str, Any]:
    """Return the batch with `pixel_values`, which raw images do not have yet."""
    import torch

    batch: Any = name_column(data, images.image_column) if isinstance(data, np.ndarray) else data
    if not is_preprocessed(batch, images.image_column):
        batch = images.preprocess(batch, threads=torch.get_num_threads())
    return dict(batch)


def _checked(batch: Mapping[str, Any], rows: int, segmenter: Segmenter, on_error: str) -> RowErrors:
    """Return the errors of rows that cannot be predicted.

    Raises:
        ImageError: a row cannot be predicted, and errors are not kept.
        RowError: checking a row raised another exception, and errors are not kept.
    """
    errors = RowErrors(batch, rows, on_error)
    pixel_values, sizes, labels = batch["pixel_values"], batch.get("original_size"), labels_of(batch)
    for row in [row for row in range(rows) if errors.texts[row] is None]:
        size = None if sizes is None else sizes[row]
        try:
            segmenter.check(pixel_values[row], size, None if labels is None else labels[row])
        except Exception as error:
            if errors.before[row]:
                raise ImageError(errors.before[row]) from error
            errors.add(row, error)
    return errors


def _check_options(cls: type[SegformerPredictor], options: Mapping[str, Any]) -> None:
    """Check the names of options, and the values that are one of a few; see `SegformerPredictor.prepare_checkpoint`."""
    if cls.from_checkpoint.__func__ is SegformerPredictor.from_checkpoint.__func__:  # type: ignore[attr-defined]
        try:
            inspect.signature(cls).bind(None, **options)
        except TypeError as error:
            raise TypeError(f"{cls.__name__} {error}") from error
    for name, hint in get_type_hints(SegformerPredictor.__init__).items():
        values = get_args(hint) if get_origin(hint) is Literal else ()
        if values and options.get(name, values[0]) not in values:
            raise ValueError(f"{name} is one of {values}, not {options[name]!r}")


def _device(use_gpu: bool | None) -> str:
    """Return "cuda" or "cpu"; None takes a GPU if there is one."""
    import torch

    if use_gpu and not torch.cuda.is_available():
        raise RuntimeError(
            "use_gpu=True, but this process sees no CUDA device; give the worker one (num_gpus_per_worker=1, or "
            "num_gpus=1 in map_batches), or leave use_gpu out"
        )
    return "cuda" if (torch.cuda.is_available() if use_gpu is None else use_gpu) else "cpu"


def _in_actor() -> bool:  # whose memory settings we may change
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
