"""The network between pixel values and class maps: logits, class ids, confidence and loss of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer import stage_times
from ray_segformer.air import installed
from ray_segformer.pretrained import ImageSettings, SegformerContent


class Segmenter:
    """A SegFormer on a device: pixel values in, class maps out. It knows neither columns nor Ray Data.

    Args:
        content: configuration and weights.
        settings: how pixel values are normalised.
        device: "cpu" or "cuda".
        runtime: see `SegformerPredictor`.
        dtype: see `SegformerPredictor`.
        confidence: whether to compute the confidence, too.

    Attributes:
        flip: whether logits are the mean of those of the image and of its mirror image; False by default.
    """

    def __init__(
        self,
        content: SegformerContent,
        settings: ImageSettings,
        *,
        device: str,
        runtime: str,
        dtype: str,
        confidence: bool,
    ) -> None:
        from ray_segformer.network import Groups

        self.flip = False
        self.num_labels = content.num_labels
        self.ignored = content.ignore_index
        self._confidence = confidence
        self._device = device
        self._settings = settings
        self._runtime = content.make_runtime(runtime=runtime, dtype=dtype, device=device)
        self._groups = Groups(self._runtime)

    @property
    def mask_dtype(self) -> type[np.unsignedinteger[Any]]:
        """The dtype of class maps: uint8, or uint16 above 255 classes."""
        return np.uint8 if self.num_labels <= 255 else np.uint16

    @property
    def bytes_per_pixel(self) -> int:
        """The memory that the result of `segment` takes for each pixel of an image."""
        return np.dtype(self.mask_dtype).itemsize + 4 * self._confidence

    def segment(
        self, pixel_values: Any, sizes: Any, labels: Any, errors: list[str | None]
    ) -> tuple[list[Any], list[Any], npt.NDArray[np.float32]]:
        """Segment the rows of a batch that have no error.

        Args:
            pixel_values: `(3, height, width)` for each row. Floats count as normalised, integers do not.
            sizes: height and width of each row's result; None for those of its pixel values.
            labels: class ids `(height, width)` for each row; None if no loss is wanted.
            errors: None for each row to segment.

        Returns:
            Class ids `(height, width)` for each row; confidence, float32 `(height, width)`, for each row; and the loss
            of each row, float32. Rows with an error have null, null and NaN.
        """
        from ray_segformer.network import upsampled_argmax

        masks: list[Any] = [None if error is None else installed.NULL_TENSOR for error in errors]
        confidences = list(masks)
        losses = np.full(len(errors), np.nan, np.float32)
        for rows, logits in self._groups.run(self.logits, pixel_values, errors):
            for row, row_logits in zip(rows, logits, strict=True):
                height, width = np.shape(pixel_values[row])[-2:] if sizes is None else sizes[row]
                size = (int(height), int(width))
                with stage_times.timed("argmax"):
                    if self._confidence:
                        masks[row], confidences[row] = upsampled_argmax(row_logits, size, confidence=True)
                    else:
                        masks[row] = upsampled_argmax(row_logits, size)
                if labels is not None:
                    losses[row] = self._loss(row_logits, labels[row])
        return masks, confidences, losses

    def logits(self, pixel_values: npt.NDArray[Any]) -> Any:
        """Return float32 logits `(N, height / 4, width / 4, classes)` of pixel values `(N, 3, height, width)`."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ValueError(f"pixel_values of a row are (3, height, width), not {pixel_values.shape[1:]}")
        if not self.flip:
            return self._logits(pixel_values)
        mirrored = np.ascontiguousarray(pixel_values[..., ::-1])
        return ((self._logits(pixel_values) + self._logits(mirrored).flip(2)) / 2).contiguous()

    def unknown_ids(self, labels: Any) -> list[int]:
        """Return the class ids in `labels` for which there is no loss: neither classes of the model nor ignored."""
        ids = np.unique(labels)
        unknown = ids[((ids < 0) | (ids >= self.num_labels)) & (ids != self.ignored)]
        return [] if self.num_labels == 1 else unknown.tolist()

    def _logits(self, pixel_values: npt.NDArray[Any]) -> Any:
        import torch

        with stage_times.timed("network", len(pixel_values)), torch.inference_mode():
            tensor = torch.from_numpy(pixel_values).to(self._device)
            tensor = tensor.float() if tensor.is_floating_point() else self._settings.normalize(tensor)
            return self._runtime(tensor)

    def _loss(self, logits: Any, labels: Any) -> float:
        """Return transformers' `labels=` loss of one image, from its logits `(h, w, classes)`."""
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            target = torch.from_numpy(np.asarray(labels).astype(np.int64))[None].to(self._device)
            resized = functional.interpolate(
                logits.permute(2, 0, 1)[None], size=target.shape[-2:], mode="bilinear", align_corners=False
            )
            if self.num_labels > 1:
                return functional.cross_entropy(resized, target, ignore_index=self.ignored).item()
            valid = ((target >= 0) & (target != self.ignored)).float()
            loss = functional.binary_cross_entropy_with_logits(resized.squeeze(1), target.float(), reduction="none")
            return float((loss * valid).mean().item())
