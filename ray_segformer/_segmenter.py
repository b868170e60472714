"""The network between pixel values and class maps: logits, class ids, confidence and loss of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ray_segformer import _stage_times as stage_times
from ray_segformer.air import installed
from ray_segformer.images import ImageError
from ray_segformer.pretrained import ImageSettings
from ray_segformer.protocol import PLAIN, Protocol, resized

if TYPE_CHECKING:
    from ray_segformer.network import Runtime, Segmentation

_HUGE = 2**26  # pixels: decoding an image this large leaves much freed memory in the process


class Segmenter:
    """A SegFormer on a device: pixel values in, class maps out. It knows neither columns nor Ray Data.

    Args:
        network: the network on its device.
        settings: how pixel values are normalised.
        num_labels: the number of classes.
        ignored: the annotated class ids that the loss leaves out; see `SegformerContent.ignored_ids`.
        ignore_index: the one of these that the model's loss leaves out, `semantic_loss_ignore_index`.
        device: "cpu" or "cuda".
        confidence: whether to compute the confidence, as well.
        foreground_threshold: see `SegformerPredictor`.
        protocol: how images are shown to the network.
        smallest_side: the fewest rows and columns that the network takes. Default: it is not checked.

    Raises:
        ValueError: as for `check_foreground_threshold`; or windows are smaller than `smallest_side`.
    """

    def __init__(
        self,
        network: Runtime,
        settings: ImageSettings,
        *,
        num_labels: int,
        ignored: Sequence[int] = (),
        ignore_index: int = 255,
        device: str = "cpu",
        confidence: bool = False,
        foreground_threshold: float | None = None,
        protocol: Protocol = PLAIN,
        smallest_side: int = 1,
    ) -> None:
        from ray_segformer.network import Groups

        check_foreground_threshold(foreground_threshold, num_labels)
        protocol.check_window(smallest_side)
        self.num_labels, self.ignored, self._ignore_index = num_labels, ignored, ignore_index
        self._protocol, self._smallest_side = protocol, smallest_side
        self._confidence, self._foreground_threshold = confidence, foreground_threshold
        self._device, self._settings, self._runtime = device, settings, network
        self._groups = Groups(network)

    @property
    def mask_dtype(self) -> type[np.unsignedinteger[Any]]:
        """The dtype of class maps: uint8, or uint16 above 255 classes."""
        return np.uint8 if self.num_labels <= 255 else np.uint16

    @property
    def bytes_per_pixel(self) -> int:
        """The memory that the result of `segment` takes for each pixel of an image."""
        return np.dtype(self.mask_dtype).itemsize + 4 * self._confidence

    def segment(
        self,
        pixel_values: Any,
        sizes: Any,
        labels: Any,
        errors: list[str | None],
        failed: Callable[..., None],
    ) -> tuple[list[Any], list[Any], npt.NDArray[np.float32]]:
        """Segment the rows of a batch that have no error.

        Args:
            pixel_values: `(3, height, width)` for each row. Floats count as normalised, integers do not.
            sizes: height and width of each row's result; None for those of its pixel values.
            labels: class ids `(height, width)` for each row; None if no loss is wanted.
            errors: None for each row to segment.
            failed: as `RowErrors.add`. It is called for a row whose logits cannot be turned into its results.

        Returns:
            Class ids `(height, width)` for each row; confidence, float32 `(height, width)`, for each row; and the loss
            of each row, float32. Rows with an error have null, null and NaN, and so have rows that failed.
        """
        masks: list[Any] = [None if error is None else installed.NULL_TENSOR for error in errors]
        confidences = list(masks)
        losses = np.full(len(errors), np.nan, np.float32)

        def segmentations() -> Iterator[tuple[int, Segmentation]]:
            for row in [row for row, error in enumerate(errors) if error is None]:
                height, width = np.shape(pixel_values[row])[-2:] if sizes is None else sizes[row]
                size, own_labels = (int(height), int(width)), None if labels is None else labels[row]
                yield row, self._segmentation(pixel_values[row], size, own_labels)

        for row, outcome in self._groups.run(self._forward, segmentations()):
            stage_times.count("network", 0.0, 1)
            if isinstance(outcome, Exception):  # a RuntimeError of torch, such as out of memory, is not the row's fault
                failed(row, outcome, fatal=isinstance(outcome, RuntimeError))
                masks[row], confidences[row] = installed.NULL_TENSOR, installed.NULL_TENSOR
            else:
                masks[row], confidences[row], losses[row] = outcome
        return masks, confidences, losses

    def _segmentation(self, pixel_values: npt.NDArray[Any], size: tuple[int, int], labels: Any) -> Segmentation:
        """Return the generator of an image's class ids, confidence and loss: see `segment_views`."""
        from ray_segformer.network import return_freed_memory, segment_views

        protocol = self._protocol
        if not protocol.has_loss:
            if math.prod(size) >= _HUGE:
                return_freed_memory()  # of the decoder
            mask = np.empty(size, self.mask_dtype)
            confidence = np.empty(size, np.float32) if self._confidence else None
            views = protocol.views(pixel_values, size, self._settings)
            # One class has a sigmoid, which is not linear between logits, so it needs the logit of each pixel.
            every_pixel = self.num_labels == 1 or self._device != "cpu"
            results = [result for result in (mask, confidence) if result is not None]
            yield from _timed(segment_views(views, self._class_map_between, results, every_pixel=every_pixel))
            if math.prod(size) >= _HUGE:
                return_freed_memory()  # of the logits: the results are copied now
            return mask, confidence, np.nan
        if protocol.flip:
            # Upsampling is linear: to average before it or after it is the same, and before it is faster.
            one, mirrored = yield [pixel_values, pixel_values[..., ::-1]]
            logits = ((one + mirrored.flip(1)) / 2).contiguous()
        else:
            (logits,) = yield [pixel_values]
        loss = np.nan if labels is None else _loss(logits, labels, self.ignored, self._ignore_index)
        with stage_times.timed("argmax"):
            mask, confidence = self.class_map(logits, size)
        return mask, confidence, loss

    def _class_map_between(self, logits: Any, down: Any, across: Any) -> list[npt.NDArray[Any]]:
        """Return class ids and, if it is wanted, the confidence of pixels between logits: see `segment_views`."""
        from ray_segformer.network import argmax_between

        if self.num_labels > 1:
            results = argmax_between(logits, down, across, confidence=self._confidence)
        else:
            results = self._foreground(logits[..., 0].sigmoid().cpu().numpy())
        return [result for result in results if result is not None]

    def class_map(self, logits: Any, size: tuple[int, int]) -> tuple[Any, npt.NDArray[np.float32] | None]:
        """Return the class ids of one image and, if it is wanted, the confidence; see `SegformerPredictor`.

        Args:
            logits: float32 `(h, w, classes)` of the image.
            size: `(height, width)` of the result.
        """
        from ray_segformer.network import upsampled_argmax, upsampled_sigmoid

        if self.num_labels > 1:
            if self._confidence:
                return upsampled_argmax(logits, size, confidence=True)
            return upsampled_argmax(logits, size), None
        if not self._confidence and self._foreground_threshold is None:
            return np.zeros(size, np.uint8), None
        return self._foreground(upsampled_sigmoid(logits, size))

    def _foreground(
        self, probability: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]:
        threshold = self._foreground_threshold
        mask = (
            np.zeros(probability.shape, np.uint8) if threshold is None else (probability > threshold).astype(np.uint8)
        )
        return mask, probability if self._confidence else None

    def check(self, pixel_values: Any, size: Any, labels: Any) -> None:
        """Raise an `ImageError` if a row cannot be segmented, or if its labels have ids for which there is no loss.

        Args:
            pixel_values: those of the row.
            size: height and width of its result; None for those of its pixel values.
            labels: its class ids; None if no loss is wanted.
        """
        shape = np.shape(pixel_values)
        if len(shape) != 3 or shape[0] != 3:
            raise ImageError(f"wrong shape: pixel_values of a row are (3, height, width), not {shape}")
        if size is not None and not all(size):
            raise ImageError("wrong shape: original_size is (0, 0)")
        resize = self._protocol.resize_in_cpu_stage
        if size is not None and resize is not None and shape[1:] != resized(resize, self._settings, *map(int, size)):
            raise ImageError(
                f"wrong shape: pixel_values of an image of {size[1]} x {size[0]} pixels are {shape[2]} x {shape[1]}, "
                f'which is not this predictor\'s resize="{resize}"; give it to the preprocessor, too'
            )
        self._protocol.check_sides(shape[1:], shape[1:] if size is None else size, self._settings, self._smallest_side)
        if labels is None:
            return
        if not self._protocol.has_loss:
            raise ImageError("wrong annotation: labels ask for the loss, which windows and scales do not have")
        _check_ids(labels, self.num_labels, self.ignored)

    def _forward(self, pixel_values: npt.NDArray[Any]) -> Any:
        """Return float32 logits `(N, height / 4, width / 4, classes)` of pixel values `(N, 3, height, width)`."""
        import torch

        with stage_times.timed("network", 0), torch.inference_mode():
            tensor = torch.from_numpy(pixel_values).to(self._device)
            tensor = tensor.float() if tensor.is_floating_point() else self._settings.normalize(tensor)
            return self._runtime(tensor)


def _timed(segmentation: Segmentation) -> Segmentation:
    """Count the time that a segmentation takes between the network's runs for the stage "argmax"."""
    logits = None
    stage_times.count("argmax", 0.0, 1)
    while True:
        with stage_times.timed("argmax", 0):
            try:
                crops = segmentation.send(logits)  # type: ignore[arg-type]
            except StopIteration as end:
                return end.value
        logits = yield crops


def _check_ids(labels: Any, num_labels: int, ignored: Sequence[int]) -> None:
    """Raise an `ImageError` if labels have other ids than those of the classes and those that are ignored."""
    ids = np.unique(labels)
    if ids.dtype.kind not in "biu":
        raise ImageError(f"wrong annotation: labels are {ids.dtype}; expected class ids, which are whole numbers")
    last = max(num_labels - 1, 1)  # of one class, labels tell foreground, 1, from background, 0
    unknown = ids[((ids < 0) | (ids > last)) & ~np.isin(ids, ignored)]
    if unknown.size:
        others = "".join(f", or {number}" for number in ignored if not 0 <= number <= last)
        raise ImageError(
            f"wrong annotation: it has the class ids {unknown[:9].tolist()}; expected 0 to {last}{others}; "
            "see reduce_labels and label_map, or rename a column 'labels' that is something else"
        )


def check_foreground_threshold(threshold: float | None, num_labels: int) -> None:
    """Check the option `foreground_threshold` of a model with `num_labels` classes. None is always valid.

    Raises:
        ValueError: the model does not have exactly one class, or the threshold is not above 0 and below 1.
    """
    if threshold is None:
        return
    if num_labels != 1:
        raise ValueError(
            f"foreground_threshold (--foreground-threshold) is for models of one class; this one has {num_labels}, and "
            "the class with the highest logit wins"
        )
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 < threshold < 1:
        raise ValueError(f"foreground_threshold is a probability above 0 and below 1, not {threshold!r}")


def _loss(logits: Any, labels: Any, ignored: Sequence[int], ignore_index: int) -> float:
    """Return the loss of one image, from its logits `(h, w, classes)`.

    It is transformers' `labels=` loss, where `labels` have the model's own `ignore_index` in place of all `ignored`
    ids. It is NaN if every pixel is ignored; with one class, transformers returns 0 then.
    """
    import torch
    from torch.nn import functional

    with torch.inference_mode():
        ids = np.asarray(labels).astype(np.int64)
        ids[np.isin(ids, ignored)] = ignore_index
        target = torch.from_numpy(ids)[None].to(logits.device)
        resized = functional.interpolate(
            logits.permute(2, 0, 1)[None], size=target.shape[-2:], mode="bilinear", align_corners=False
        )
        if logits.shape[-1] > 1:
            return functional.cross_entropy(resized, target, ignore_index=ignore_index).item()
        valid = ((target >= 0) & (target != ignore_index)).float()
        if not valid.any():
            return float("nan")
        loss = functional.binary_cross_entropy_with_logits(resized.squeeze(1), target.float(), reduction="none")
        return float((loss * valid).mean().item())
