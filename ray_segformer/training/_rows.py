"""The rows of a dataset as batches for training and validation: sharded, shuffled, decoded, checked."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.train
import torch
from ray.data.collate_fn import NumpyBatchCollateFn

from ray_segformer._labels import Labels
from ray_segformer.air import installed
from ray_segformer.images import MAX_PIXELS, ImageError, advice_on_size, cells, describe, object_array, to_rgb
from ray_segformer.preprocessor import SegformerPreprocessor
from ray_segformer.protocol import PLAIN, Protocol
from ray_segformer.training._augmentation import IGNORED, augment
from ray_segformer.training._workers import sum_over_workers

_SHUFFLE_BUFFER_ROWS = 256  # rows of encoded images, in each worker
_LOOKED_AT_OF_BLOCK = 8  # annotations of a block, before the first step: those of a block may be alike


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
        num_classes: the number of classes. A class id of `num_classes` or above is an error.
        ignore_index: the model's own ignored class id. Annotated pixels that have it, after they are reduced, become
            255, which is ignored, too.
        augmented: whether training images are changed at random, or resized as for validation.
        seed: random numbers depend on this, on `epoch` and on the image.
        epoch: see `seed`.
        image_column: the column with image cells (see `ray_segformer.images`).
        annotation_column: the column with annotations, which are image cells, too.
        label_map, label_colors, max_pixels: see `Settings`.
        protocol: how validation images are shown to the network.

    Attributes:
        labels: how annotations become class ids.
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
        label_map: Mapping[int, int] | None = None,
        label_colors: Mapping[tuple[int, int, int], int] | None = None,
        protocol: Protocol = PLAIN,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.augmented, self.seed, self.epoch = augmented, seed, epoch
        self.columns, self.max_pixels = (image_column, annotation_column), max_pixels
        self.labels = Labels(
            num_classes,
            ignored_ids=(IGNORED,) if ignore_index == IGNORED else (IGNORED, ignore_index),
            reduce_labels=preprocessor.do_reduce_labels,
            label_map=label_map,
            label_colors=label_colors,
        )
        self.resize = SegformerPreprocessor.from_config(
            preprocessor.to_config(),
            do_reduce_labels=False,  # `labels` reduces them before.
            annotation_column="annotation",
            max_pixels=max_pixels,
        )
        self._shown = None
        if protocol != PLAIN:
            resize = protocol.resize_in_cpu_stage
            options = {"resize": resize, "max_pixels": max_pixels}
            self._shown = SegformerPreprocessor.from_config(preprocessor.to_config(), **options)

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

    def first_pass(self, shard: Any, device: torch.device, images: int | None = None) -> int:
        """Count the rows of all workers' shards, and check some annotations, before the first step.

        Args:
            shard: this worker's.
            device: the worker's device.
            images: the number of rows, if it is known. Only the first rows are read then.

        Returns:
            The number of rows.

        Raises:
            ImageError: an annotation cannot be read, or has unknown class ids. The message names its image.
            InputError: the annotations cannot be right; see `Labels.check`.
            ValueError: there are too few rows, or a column is missing.
        """
        counts, looked, own = np.zeros(self.labels.num_classes + 1, np.int64), 0, 0
        for table in shard.iter_batches(batch_size=None, batch_format="pyarrow"):
            own += table.num_rows
            self._check_columns(table.column_names)
            for place in np.unique(
                np.linspace(0, table.num_rows - 1, min(table.num_rows, _LOOKED_AT_OF_BLOCK)).round()
            ):
                if not self.labels.needs_more(counts, looked):
                    break
                counts += self._count_row(table.slice(int(place), 1))
                looked += 1
            if images is not None and not self.labels.needs_more(counts, looked):
                break
        total = int(sum_over_workers(np.array([own]), device)[0])
        if not own:  # Ray leaves rows out that cannot be shared equally
            raise ValueError("the dataset 'train' has no rows, or fewer than there are workers")
        counts = sum_over_workers(counts, device)
        if self.labels.in_doubt(counts):
            self.labels.check(counts)
        return images or total

    def look_at_validation(self, shard: Any, device: torch.device) -> None:
        """Decode the first row of each worker's shard, so that what is wrong is known before the first epoch.

        Args:
            shard, device: as for `first_pass`.

        Raises:
            ImageError: as for `for_validation`.
            ValueError: as for `for_validation`; or there are no rows.
        """
        first = next(iter(shard.iter_batches(batch_size=1)), None)
        if first is not None:
            self.for_validation(first)
        if not sum_over_workers(np.array([first is not None], int), device)[0]:
            raise ValueError("the dataset 'validation' has no rows")

    def _count_row(self, row: Any) -> npt.NDArray[np.int64]:
        """Return the counts of the annotation in an Arrow table of one row."""
        columns = [name for name in ("path", self.columns[1]) if name in row.column_names]
        batch = installed.convert_to_numpy(row.select(columns))
        (annotation,) = cells(batch[self.columns[1]])
        path = next(cells(batch["path"])) if "path" in batch else None
        return self.labels.count_row(path or "a row of the dataset", annotation)

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
    ) -> tuple[dict[str, torch.Tensor], list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]]:
        """Decode a batch for validation.

        Returns:
            The columns of `for_training`, of images resized whole; the annotations at their own sizes, uint8 `(h, w)`;
            and the pixel values of the protocol, uint8 `(3, height, width)`, which are none without one.

        Raises:
            ImageError: as for `for_training`.
            ValueError: as for `for_training`.
        """
        images, annotations = self._decoded(batch)
        shown = [] if self._shown is None else self._shown.preprocess({"image": object_array(images)})["pixel_values"]
        return self._resized(images, annotations), annotations, list(shown)

    def _resized(
        self, images: list[npt.NDArray[np.uint8]], annotations: list[npt.NDArray[np.uint8]]
    ) -> dict[str, torch.Tensor]:
        resized = self.resize.preprocess({"image": object_array(images), "annotation": object_array(annotations)})
        return _tensors(resized["pixel_values"], resized["labels"])

    def _decoded(self, batch: dict[str, np.ndarray]) -> tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]]:
        """Return images `(h, w, 3)` and class ids `(h, w)`, both uint8."""
        self._check_columns(list(batch))
        images, annotations = [], []
        paths = list(cells(batch["path"])) if "path" in batch else [None] * len(batch[self.columns[0]])
        for image, annotation, path in zip(*(cells(batch[column]) for column in self.columns), paths, strict=True):
            try:
                images.append(to_rgb(image, self.max_pixels))
                annotations.append(self.labels.class_ids(annotation, self.max_pixels).astype(np.uint8, copy=False))
                _check_size(annotations[-1].shape, images[-1].shape[:2])
            except ImageError as error:
                name = path or describe(image) or "a row of the dataset"
                raise ImageError(f"{name}: {error}") from error
        return images, annotations

    def _check_columns(self, there: list[str]) -> None:
        for column in self.columns:
            if column not in there:
                raise ValueError(
                    f"the dataset has no column {column!r}, only {there}; name the right one with 'image_column' or "
                    "'annotation_column'"
                )


class _Collate(NumpyBatchCollateFn):
    """A function of NumPy batches, as the class that Ray Data requires."""

    def __init__(self, function: Callable[[dict[str, np.ndarray]], Any]) -> None:
        self._function = function

    def __call__(self, batch: dict[str, np.ndarray]) -> Any:
        return self._function(batch)


def _check_size(annotation: tuple[int, ...], image: tuple[int, ...]) -> None:
    if annotation != image:
        advice = advice_on_size(annotation, image)
        raise ImageError(f"the annotation is {annotation} but its image is {image}, (height, width); {advice}")


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
