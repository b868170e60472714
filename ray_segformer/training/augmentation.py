"""From a dataset's rows to what a network learns from: decoded, checked, and changed at random.

The strengths are those of the usual SegFormer recipes: torchvision's `ColorJitter(0.25, 0.25, 0.25, 0.1)` of Hugging
Face's fine-tuning tutorial, and scale, crop and flip of the SegFormer paper (https://arxiv.org/abs/2105.15203, 4.1).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import ray.train
import torch
from PIL import Image, ImageEnhance
from ray.data.collate_fn import NumpyBatchCollateFn

from ray_segformer.images import ImageError, cells, describe, object_array, reduce_labels, to_class_ids, to_rgb
from ray_segformer.preprocessor import SegformerPreprocessor

SCALES = (0.5, 2.0)
BRIGHTNESS = CONTRAST = SATURATION = 0.25
HUE = 0.1  # of a full turn
IGNORED = 255

_SHUFFLED_ROWS = 256  # of encoded images, in each worker
_PADDING = (124, 116, 104)  # ImageNet's mean colour, which normalisation makes zero


class EveryRowOfValidation(ray.train.DataConfig):
    """Splits "validation" to the last row. Ray Train's own `DataConfig` makes all shards equal and drops the rest.

    Training needs equal shards: workers step together. Validation does not.
    """

    def configure(self, datasets: dict[str, Any], world_size: int, *args: Any, **options: Any) -> Any:
        """The shards of each worker, by name."""
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
    """Batches of a dataset's rows, decoded in the background threads of Ray Data's iterators.

    Args:
        preprocessor: the network's; says its input's size and whether annotations are to be reduced.
        num_classes: ids from there on are errors.
        augmented: whether training images are changed at random, or resized as for validation.
        seed, epoch: what chance depends on, beside the image itself.
        image_column, annotation_column: columns of cells (see `ray_segformer.images`).
    """

    def __init__(
        self,
        preprocessor: SegformerPreprocessor,
        num_classes: int,
        *,
        augmented: bool = True,
        seed: int = 0,
        epoch: int = 0,
        image_column: str = "image",
        annotation_column: str = "annotation",
    ):
        self.num_classes, self.augmented, self.seed, self.epoch = num_classes, augmented, seed, epoch
        self.columns = (image_column, annotation_column)
        self.reduce = preprocessor.do_reduce_labels
        self.resize = SegformerPreprocessor.from_config(
            preprocessor.to_config(),
            do_reduce_labels=False,  # they are, before
            annotation_column="annotation",
        )

    def training_batches(self, shard: Any, batch_size: int) -> Any:
        """An epoch, shuffled: batches as `for_training` makes them, on the worker's device."""
        return shard.iter_torch_batches(
            batch_size=batch_size,
            collate_fn=_Collate(self.for_training),
            prefetch_batches=2,
            local_shuffle_buffer_size=max(_SHUFFLED_ROWS, batch_size),
            local_shuffle_seed=mixed(self.seed, self.epoch),
        )

    def validation_batches(self, shard: Any, batch_size: int) -> Any:
        """All images: batches as `for_validation` makes them, on the CPU."""
        return shard.iter_torch_batches(
            batch_size=batch_size, collate_fn=_Collate(self.for_validation), prefetch_batches=2
        )

    def for_training(self, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """`pixel_values`, uint8 `(N, 3, height, width)`, and `labels`, int64 `(N, height, width)`.

        Raises:
            ImageError: an image or its annotation cannot be read, their sizes differ, or ids are of no class.
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

    def for_validation(self, batch: dict[str, np.ndarray]) -> tuple[dict[str, torch.Tensor], list[np.ndarray]]:
        """The same of images resized whole, and the annotations at their own sizes, uint8 `(h, w)`."""
        images, annotations = self._decoded(batch)
        return self._resized(images, annotations), annotations

    def _resized(self, images: list[np.ndarray], annotations: list[np.ndarray]) -> dict[str, torch.Tensor]:
        resized = self.resize.preprocess({"image": object_array(images), "annotation": object_array(annotations)})
        return _tensors(resized["pixel_values"], resized["labels"])

    def _decoded(self, batch: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Images `(h, w, 3)` and class ids `(h, w)`, uint8 both."""
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

    def _class_ids(self, cell: Any) -> np.ndarray:
        ids = to_class_ids(cell)
        last = self.num_classes - 1 + self.reduce
        wrong = np.unique(ids[(ids > last) & (ids != IGNORED)])
        if wrong.size:
            advice = (
                "" if self.reduce else "; ADE20K's numbering, 0 for other and classes from 1, is reduce_labels=True"
            )
            raise ImageError(
                f"the annotation has the class ids {wrong[:8].tolist()}; expected 0 to {last}, or {IGNORED} to ignore, "
                f"of {self.num_classes} classes with reduce_labels={self.reduce}{advice}"
            )
        return reduce_labels(ids, IGNORED) if self.reduce else ids


class _Collate(NumpyBatchCollateFn):
    """A function of NumPy batches, as Ray Data wants to be given one."""

    def __init__(self, function: Callable[[dict[str, np.ndarray]], Any]):
        self._function = function

    def __call__(self, batch: dict[str, np.ndarray]) -> Any:
        return self._function(batch)


def row_generator(seed: int, epoch: int, rgb: np.ndarray) -> np.random.Generator:
    """The random numbers of one image in one epoch, wherever and in whatever order it is read.

    Args:
        seed, epoch: numbers of 0 or more.
        rgb: the image, uint8 of any shape.
    """
    return np.random.default_rng([seed, epoch, zlib.crc32(np.ascontiguousarray(rgb).data)])


def augment(
    rgb: np.ndarray, labels: np.ndarray, size: tuple[int, int], rng: np.random.Generator, *, jitter: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Scale, crop, flip and recolour an image, and its labels with it.

    At scale 1 the crop is the whole image, resized as it is for prediction, where SegFormer's preprocessing does not
    keep the aspect ratio either. Scales are uniform in `SCALES`, and the crop is anywhere in the scaled image.

    Args:
        rgb: uint8 `(h, w, 3)`.
        labels: class ids `(h, w)`, uint8.
        size: `(height, width)` of the crop.
        rng: where chance comes from.
        jitter: whether to change colours, too.

    Returns:
        uint8 `(height, width, 3)`, resized bilinearly, and uint8 `(height, width)`, to the nearest. Where the crop
        is larger than the scaled image, it is padded on the right and at the bottom: with ImageNet's mean colour, and
        with `IGNORED`.

    Raises:
        ValueError: the labels are of another size than the image.
    """
    if rgb.shape[:2] != labels.shape:
        raise ValueError(f"the labels are {labels.shape} but their image is {rgb.shape[:2]}, (height, width)")
    (own_height, own_width), (height, width) = labels.shape, size
    scale = rng.uniform(*SCALES)
    scaled_height, scaled_width = max(1, round(height * scale)), max(1, round(width * scale))
    cut_height, cut_width = min(scaled_height, height), min(scaled_width, width)
    top, left = rng.integers(0, scaled_height - cut_height + 1), rng.integers(0, scaled_width - cut_width + 1)
    # The cut in the image's own pixels: what is cut off need not be resized.
    x, y = own_width / scaled_width, own_height / scaled_height
    right, bottom = min(own_width, (left + cut_width) * x), min(own_height, (top + cut_height) * y)
    box = (left * x, top * y, right, bottom)
    picture = Image.fromarray(rgb).resize((cut_width, cut_height), Image.Resampling.BILINEAR, box=box)
    if jitter:
        picture = jitter_colours(picture, rng)
    cut = Image.fromarray(labels).resize((cut_width, cut_height), Image.Resampling.NEAREST, box=box)
    pixels = np.full((height, width, 3), _PADDING, np.uint8)
    ids = np.full((height, width), IGNORED, np.uint8)
    step = -1 if rng.random() < 0.5 else 1
    pixels[:cut_height, :cut_width] = np.asarray(picture)[:, ::step]
    ids[:cut_height, :cut_width] = np.asarray(cut)[:, ::step]
    return pixels, ids


def jitter_colours(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue, in random order, as torchvision's `ColorJitter` changes Pillow images.

    Args:
        picture: an RGB image; left as it is.
        rng: where chance comes from.

    Returns:
        An RGB image of the same size.
    """
    enhancers = [
        (ImageEnhance.Brightness, BRIGHTNESS),
        (ImageEnhance.Contrast, CONTRAST),
        (ImageEnhance.Color, SATURATION),
    ]
    factors = [rng.uniform(1 - strength, 1 + strength) for _, strength in enhancers]
    turn = rng.uniform(-HUE, HUE)
    for number in rng.permutation(len(enhancers) + 1):
        if number < len(enhancers):
            picture = enhancers[number][0](picture).enhance(factors[number])
        else:
            hsv = np.array(picture.convert("HSV"))
            hsv[..., 0] += np.uint8(round(turn * 255) % 256)  # which wraps around, as hue does
            picture = Image.fromarray(hsv, "HSV").convert("RGB")
    return picture


def mixed(*numbers: int) -> int:
    """A seed of several numbers, each 0 or more."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _tensors(pixel_values: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.from_numpy(np.ascontiguousarray(pixel_values)),
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }
