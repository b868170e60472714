"""The rows of a dataset as batches for training and validation: sharded, shuffled, decoded, checked."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.train
import torch
from ray.data.collate_fn import NumpyBatchCollateFn

from ray_segformer.images import ImageError, cells, describe, object_array, reduce_labels, to_class_ids, to_rgb
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.training.augmentation import IGNORED, augment

_SHUFFLE_BUFFER_ROWS = 256  # rows of encoded images, in each worker


class EveryRowOfValidation(ray.train.DataConfig):
    """Gives every row of the dataset "validation" to some worker.

    Ray Train's own `DataConfig` makes all shards equal, and drops the remaining rows. Training needs equal shards,
    because workers step together. Validation does not.
    """

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **options: Any) -> Any:
        """Return the shards of each worker by name."""
        others = {name: dataset for name, dataset in datasets.items() if name != "validation"}
        shards = super().configure(others, world_size, *args, **options)
        if "validation" in datasets:
            validation = datasets["validation"].copy(datasets["validation"])
            validation.context.execution_options = self._resolve_execution_options("validation")
            splits = validation.streaming_split(world_size, equal=False)
            for shard, split in zip(shards, splits, strict=True):
                shard["validation"] = split
        return shards


class TrainingRows:
    """Batches of a dataset's rows. The background threads of Ray Data's iterators decode them.

    Args:
        preprocessor: the model's preprocessor. It has the input size and whether to reduce annotations.
        num_classes: the number of classes. A higher class id is an error.
        ignore_index: the model's own ignored class id. Annotated pixels that have it, after they are reduced, become
            255, which is ignored, too.
        augmented: whether training images are changed at random, or resized as for validation.
        seed: random numbers depend on this, on `epoch` and on the image.
        epoch: see `seed`.
        image_column: the column with image cells (see `ray_segformer.images`).
        annotation_column: the column with annotations, which are image cells, too.
    """

    def __init__(
        self,
        preprocessor: SegformerPreprocessor,
        num_classes: int,
        *,
        ignore_index: int = IGNORED,
        augmented: bool = True,
        seed: int = 0,
        epoch: int = 0,
        image_column: str = "image",
        annotation_column: str = "annotation",
    ) -> None:
        self.num_classes, self.augmented, self.seed, self.epoch = num_classes, augmented, seed, epoch
        self.ignore_index = ignore_index
        self.columns = (image_column, annotation_column)
        self.reduce = preprocessor.do_reduce_labels
        self.resize = SegformerPreprocessor.from_config(
            preprocessor.to_config(),
            do_reduce_labels=False,  # `_class_ids` reduces them before.
            annotation_column="annotation",
        )

    def training_batches(self, shard: Any, batch_size: int) -> Any:
        """Return the batches of an epoch, shuffled, from `for_training`, on the worker's device."""
        return shard.iter_torch_batches(
            batch_size=batch_size,
            collate_fn=_Collate(self.for_training),
            prefetch_batches=2,
            local_shuffle_buffer_size=max(_SHUFFLE_BUFFER_ROWS, batch_size),
            local_shuffle_seed=combined_seed(self.seed, self.epoch),
        )

    def validation_batches(self, shard: Any, batch_size: int) -> Any:
        """Return the batches of all images, from `for_validation`, on the CPU."""
        return shard.iter_torch_batches(
            batch_size=batch_size, collate_fn=_Collate(self.for_validation), prefetch_batches=2
        )

    def for_training(self, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Decode a batch for training.

        Returns:
            `pixel_values`, uint8 `(N, 3, height, width)`, and `labels`, int64 `(N, height, width)`.

        Raises:
            ImageError: an image or its annotation cannot be read, their sizes differ, or a class id is unknown.
            ValueError: a column is missing.
        """
        images, annotations = self._decoded(batch)
        if not self.augmented:
            return self._resized(images, annotations)
        size = (self.resize.height, self.resize.width)
        pairs = [
            augment(rgb, ids, size, row_generator(self.seed, self.epoch, rgb))
            for rgb, ids in zip(images, annotations, strict=True)
        ]
        pixels, labels = zip(*pairs, strict=True)
        return _tensors(np.stack(pixels).transpose(0, 3, 1, 2), np.stack(labels))

    def for_validation(
        self, batch: dict[str, np.ndarray]
    ) -> tuple[dict[str, torch.Tensor], list[npt.NDArray[np.uint8]]]:
        """Decode a batch for validation.

        Returns:
            The columns of `for_training`, of images resized whole, and the annotations at their own sizes, uint8
            `(h, w)`.

        Raises:
            ImageError: as for `for_training`.
            ValueError: as for `for_training`.
        """
        images, annotations = self._decoded(batch)
        return self._resized(images, annotations), annotations

    def _resized(
        self, images: list[npt.NDArray[np.uint8]], annotations: list[npt.NDArray[np.uint8]]
    ) -> dict[str, torch.Tensor]:
        resized = self.resize.preprocess({"image": object_array(images), "annotation": object_array(annotations)})
        return _tensors(resized["pixel_values"], resized["labels"])

    def _decoded(self, batch: dict[str, np.ndarray]) -> tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]]:
        """Return images `(h, w, 3)` and class ids `(h, w)`, both uint8."""
        for column in self.columns:
            if column not in batch:
                raise ValueError(
                    f"the dataset has no column {column!r}, only {list(batch)}; name the right one with "
                    "'image_column' or 'annotation_column'"
                )
        images, annotations = [], []
        paths = list(cells(batch["path"])) if "path" in batch else [None] * len(batch[self.columns[0]])
        for image, annotation, path in zip(*(cells(batch[column]) for column in self.columns), paths, strict=True):
            try:
                images.append(to_rgb(image))
                annotations.append(self._class_ids(annotation))
                if images[-1].shape[:2] != annotations[-1].shape:
                    sizes = f"{annotations[-1].shape} but its image is {images[-1].shape[:2]}, (height, width)"
                    raise ImageError(f"the annotation is {sizes}")
            except ImageError as error:
                name = path or describe(image) or "a row of the dataset"
                raise ImageError(f"{name}: {error}") from error
        return images, annotations

    def _class_ids(self, cell: Any) -> npt.NDArray[Any]:
        ids = to_class_ids(cell)
        own = self.ignore_index + self.reduce  # as it is in the file
        ids = ids if own == IGNORED else np.where(ids == own, IGNORED, ids)
        last = self.num_classes - 1 + self.reduce
        others = f"{IGNORED} or {own}" if own > last and own != IGNORED else IGNORED
        unknown = np.unique(ids[(ids > last) & (ids != IGNORED)])
        if unknown.size:
            advice = (
                "" if self.reduce else "; ADE20K's numbering, 0 for other and classes from 1, is reduce_labels=True"
            )
            raise ImageError(
                f"the annotation has the class ids {unknown[:8].tolist()}; expected 0 to {last}, or {others} to "
                f"ignore, of {self.num_classes} classes with reduce_labels={self.reduce}{advice}"
            )
        return (reduce_labels(ids, IGNORED) if self.reduce else ids).astype(np.uint8)


class _Collate(NumpyBatchCollateFn):
    """A function of NumPy batches, as the class that Ray Data requires."""

    def __init__(self, function: Callable[[dict[str, np.ndarray]], Any]) -> None:
        self._function = function

    def __call__(self, batch: dict[str, np.ndarray]) -> Any:
        return self._function(batch)


def row_generator(seed: int, epoch: int, rgb: np.ndarray) -> np.random.Generator:
    """Return a generator whose numbers depend on the image and the epoch, but not on the worker or the order of rows.

    Args:
        seed: a number of at least 0.
        epoch: a number of at least 0.
        rgb: the image, uint8 of any shape.
    """
    return np.random.default_rng([seed, epoch, zlib.crc32(np.ascontiguousarray(rgb).data)])


def combined_seed(*numbers: int) -> int:
    """Combine several numbers, each of at least 0, into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _tensors(pixel_values: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.from_numpy(np.ascontiguousarray(pixel_values)),
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }
