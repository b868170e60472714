"""`SegformerPreprocessor`: images in, `pixel_values` out, to the byte as transformers resizes them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image

from ray_segformer import stage_times
from ray_segformer.air import BatchMapper, installed
from ray_segformer.images import (
    MAX_PIXELS,
    ImageError,
    cells,
    describe,
    object_array,
    reduce_labels,
    to_class_ids,
    to_rgb,
)

CONFIG_NAME = "preprocessor_config.json"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Small enough that a task's decoded images fit in a worker's memory, large enough to pay for the task.
_BATCH_SIZE = 16
# What a preprocessor_config.json says, in transformers' words.
_SETTINGS = (
    *("size", "do_resize", "resample", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_reduce_labels"),
)

_IGNORED = 255  # the class id that transformers' loss and every ADE20K metric leave out


class SegformerPreprocessor(BatchMapper):
    """The CPU stage: decodes and resizes image cells, as a Ray preprocessor.

        SegformerPreprocessor.from_pretrained("segformer-b0/").transform(ray.data.read_images("photos/"))

    Adds to a batch, and takes the image column away (it is the bulk):

    * `pixel_values`: uint8 `(3, height, width)`, resized by Pillow as transformers' `SegformerImageProcessorPil`
      does it, the same bytes; not yet rescaled and normalised, which `normalize` does on the device. Images keep
      their own sizes with `do_resize=False`.
    * `original_size`: int32 `(2,)`, height and width of the image.
    * `labels`, with an annotation column: `(height, width)` class ids, resized to the nearest, uint8 (uint16 where
      an id is above 255). 255 is ignored, and a null annotation is all 255.
    * `error`, with `on_error="keep"`: why the row has no image, or null (empty text on Ray 2.6). Its other
      columns are then blank.

    Other columns stay. A batch that has `pixel_values` passes unchanged.

    Args:
        size: `{"height": h, "width": w}` in pixels, or one number for a square.
        do_resize, resample: whether to resize, and Pillow's number of the filter (2 is bilinear).
        do_rescale, rescale_factor, do_normalize, image_mean, image_std: what `normalize` does.
        do_reduce_labels: map class id 0 to 255 and k to k - 1 (ADE20K).
        image_column: the column with image cells (see `ray_segformer.images`).
        annotation_column: the column with annotations, or None.
        on_error: "raise" (the error names the row), or "keep" the row.
        max_pixels: an image of more is an error, found before it is decoded. Decoding takes up to 18 bytes for each
            pixel, so that a worker with little memory needs a lower limit.
        batch_format: "numpy" or "pandas".
        batch_size: rows preprocessed at once.

    Raises:
        ValueError: an option has none of its values; on a batch, a column is missing.
        ImageError: on a batch, with `on_error="raise"`, a cell holds no image.
    """

    def __init__(
        self,
        size: int | Mapping[str, int] = 512,
        *,
        do_resize: bool = True,
        resample: int = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: tuple[float, ...] | list[float] = IMAGENET_MEAN,
        image_std: tuple[float, ...] | list[float] = IMAGENET_STD,
        do_reduce_labels: bool = False,
        image_column: str = "image",
        annotation_column: str | None = None,
        on_error: Literal["raise", "keep"] = "raise",
        max_pixels: int = MAX_PIXELS,
        batch_format: Literal["numpy", "pandas"] = "numpy",
        batch_size: int | None = _BATCH_SIZE,
    ):
        super().__init__(fn=self.preprocess, batch_format=batch_format, batch_size=batch_size)
        if on_error not in ("raise", "keep"):
            raise ValueError(f'on_error is "raise" or "keep", not {on_error!r}')
        if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
            raise ValueError(f"max_pixels is a whole number of at least 1, not {max_pixels!r}")
        self.height, self.width = _height_and_width(size)
        self.do_resize = bool(do_resize)
        self.resample = Image.Resampling(resample)
        self.do_rescale = bool(do_rescale)
        self.rescale_factor = float(rescale_factor)
        self.do_normalize = bool(do_normalize)
        self.image_mean = tuple(float(value) for value in image_mean)
        self.image_std = tuple(float(value) for value in image_std)
        if len(self.image_mean) != 3 or len(self.image_std) != 3:
            raise ValueError(f"image_mean and image_std hold three numbers, not {self.image_mean}, {self.image_std}")
        self.do_reduce_labels = bool(do_reduce_labels)
        self.image_column = image_column
        self.annotation_column = annotation_column
        self.on_error = on_error
        self.max_pixels = max_pixels

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> SegformerPreprocessor:
        """From the dict of a `preprocessor_config.json`, of any age.

        Older files say `"size": 512`, `reduce_labels` and `SegformerFeatureExtractor`. Missing settings have
        transformers' defaults; `options` are arguments of the constructor and win.
        """
        config = dict(config)
        if "reduce_labels" in config:
            config.setdefault("do_reduce_labels", config["reduce_labels"])
        settings = {name: config[name] for name in _SETTINGS if config.get(name) is not None}
        return cls(**{**settings, **options})

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, **options: Any) -> SegformerPreprocessor:
        """From the `preprocessor_config.json` in `directory`; `options` as for the constructor.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not JSON, or a setting has no meaning here.
        """
        path = os.path.join(directory, CONFIG_NAME)
        try:
            with open(path, encoding="utf-8") as file:
                config = json.load(file)
            return cls.from_config(config, **options)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def to_config(self) -> dict[str, Any]:
        """The settings as a `preprocessor_config.json` has them."""
        return {
            "do_normalize": self.do_normalize,
            "do_reduce_labels": self.do_reduce_labels,
            "do_rescale": self.do_rescale,
            "do_resize": self.do_resize,
            "image_mean": list(self.image_mean),
            "image_processor_type": "SegformerImageProcessor",
            "image_std": list(self.image_std),
            "resample": int(self.resample),
            "rescale_factor": self.rescale_factor,
            "size": {"height": self.height, "width": self.width},
        }

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write `preprocessor_config.json` into `directory`, as transformers does; both load it."""
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, CONFIG_NAME), "w", encoding="utf-8") as file:
            json.dump(self.to_config(), file, indent=2, sort_keys=True)
            file.write("\n")

    def normalize(self, pixel_values: Any) -> Any:
        """Rescale and normalise, on the tensor's own device.

        Args:
            pixel_values: a uint8 torch tensor `(..., 3, height, width)`.

        Returns:
            A float32 tensor of the same shape: `(pixel_values * rescale_factor - image_mean) / image_std`.
        """
        pixel_values = pixel_values.float()
        if self.do_rescale:
            pixel_values = pixel_values * self.rescale_factor
        if self.do_normalize:
            mean = pixel_values.new_tensor(self.image_mean)[:, None, None]
            std = pixel_values.new_tensor(self.image_std)[:, None, None]
            pixel_values = (pixel_values - mean) / std
        return pixel_values

    def _transform_numpy(self, np_data: Any) -> Any:
        result = self.preprocess(np_data)  # which writes into no array: a read-only view will do
        stage_times.hand_over()
        return result

    def _transform_pandas(self, df: pd.DataFrame) -> pd.DataFrame:
        result = self.preprocess(df)
        stage_times.hand_over()
        return result

    def preprocess(self, batch: Any, *, threads: int = 1) -> Any:
        """Preprocess one batch, a dict of arrays, an array or a DataFrame, without Ray.

        Args:
            batch: left as it is; the result is new.
            threads: how many images to decode and resize at a time; Pillow lets other threads run meanwhile.
        """
        if isinstance(batch, np.ndarray):
            batch = name_column(batch, self.image_column)
        if "pixel_values" in batch:
            return batch
        for column in filter(None, (self.image_column, self.annotation_column)):
            if column not in batch:
                raise ValueError(
                    f"the batch has no column {column!r}, only {list(batch)}; name the right one with "
                    "image_column= or annotation_column="
                )
        rows = self._rows(batch, threads)
        columns = {name: batch[name] for name in batch if name != self.image_column}
        if isinstance(batch, pd.DataFrame):
            cells_of = {name: list(values) for name, values in rows.items()}
            return pd.DataFrame({**columns, **cells_of}, index=batch.index)
        return {**columns, **rows}

    def _rows(self, batch: Mapping[str, Any], threads: int) -> dict[str, np.ndarray]:
        """The columns to add."""
        images = list(cells(batch[self.image_column]))
        annotations = list(cells(batch[self.annotation_column])) if self.annotation_column else [None] * len(images)
        paths = paths_of(batch, len(images))
        errors = errors_of(batch, len(images))

        def preprocess_row(row: int) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
            if self.on_error == "raise" or errors[row] is None:
                try:
                    return self._row(images[row], annotations[row])
                except ImageError as error:
                    message = of_row(row, describe(images[row]) or paths[row], error)
                    if self.on_error == "raise":
                        raise ImageError(f'{message}. Pass on_error="keep" to keep such rows.') from error
                    errors[row] = message
            return self._blank()

        if threads > 1 and len(images) > 1:
            with ThreadPoolExecutor(threads) as pool:
                results = list(pool.map(preprocess_row, range(len(images))))
        else:
            results = [preprocess_row(row) for row in range(len(images))]
        pixel_values, sizes, labels = zip(*results, strict=True) if results else ((), (), ())

        shape = (3, self.height, self.width)
        columns = {
            "pixel_values": stack(pixel_values, np.uint8, shape),
            "original_size": np.array(sizes, np.int32).reshape(len(images), 2),
        }
        if self.annotation_column:
            columns["labels"] = stack(labels, np.uint8, shape[1:])
        if self.on_error == "keep":
            columns["error"] = error_column(errors)
        return columns

    def _row(self, cell: Any, annotation: Any) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
        """Pixel values, original size and labels of one row."""
        with stage_times.timed("decode"):
            rgb, labels = self._decoded(cell, annotation)
        size = rgb.shape[:2]
        with stage_times.timed("resize"):
            if self.do_resize:
                self._check_height(size)
                rgb = np.asarray(Image.fromarray(rgb).resize((self.width, self.height), self.resample))
                labels = np.asarray(Image.fromarray(labels).resize((self.width, self.height), Image.Resampling.NEAREST))
        return rgb.transpose(2, 0, 1), size, labels

    def _check_height(self, size: tuple[int, ...]) -> None:
        if size[0] * self.width > max(self.max_pixels, MAX_PIXELS):  # which some versions of Pillow hold at once
            raise ImageError(f"too large: {size[0]} rows, each resized from {size[1]} to {self.width} pixels")

    def _decoded(self, cell: Any, annotation: Any) -> tuple[np.ndarray, np.ndarray]:
        """RGB and labels of one row, at its own size."""
        rgb = to_rgb(cell, self.max_pixels)
        size = rgb.shape[:2]
        if annotation is None:
            labels = np.full(size, _IGNORED, np.uint8)
        else:
            try:
                labels = to_class_ids(annotation, self.max_pixels)
            except ImageError as error:
                path = describe(annotation)
                raise ImageError("wrong annotation" + (f" ({path})" if path else "") + f": {error}") from error
            if self.do_reduce_labels:
                labels = reduce_labels(labels)
            if labels.shape != size:
                raise ImageError(
                    f"wrong annotation: the annotation is {labels.shape} but its image is {size}, (height, width)"
                )
        return rgb, labels

    def _blank(self) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
        height, width = (self.height, self.width) if self.do_resize else (1, 1)
        return np.zeros((3, height, width), np.uint8), (0, 0), np.full((height, width), _IGNORED, np.uint8)

    def __repr__(self) -> str:
        return f"SegformerPreprocessor(size=({self.height}, {self.width}), image_column={self.image_column!r})"


def name_column(array: np.ndarray, image_column: str) -> dict[str, np.ndarray]:
    """A batch without column names, as Ray hands over one column, by what its rows look like.

    Rows `(3, H, W)` are `pixel_values`; all others are images. Raises ValueError for a single image.
    """
    if array.dtype != object and array.ndim == 3 and array.shape[-1] in (3, 4):
        raise ValueError(
            f"an array of shape {array.shape} is one image or many grey ones; give a batch as (N, H, W, 3)"
        )
    if array.dtype == object:
        shape = np.shape(array[0]) if len(array) and isinstance(array[0], np.ndarray) else ()
    else:
        shape = array.shape[1:]
    if len(shape) == 3 and shape[0] == 3 and shape[-1] not in (1, 3, 4):
        return {"pixel_values": array}
    return {image_column: array}


def of_row(row: int, path: Any, why: Any) -> str:
    """What an `error` column says, and what `ray_segformer.images.cause_of` reads."""
    return f"row {row} of the batch" + (f" ({path})" if path else "") + f": {why}"


def paths_of(batch: Mapping[str, Any], rows: int) -> list[Any]:
    """The `path` column of a batch, which errors name; all None where it has no such column."""
    return list(cells(batch["path"])) if "path" in batch else [None] * rows


def errors_of(batch: Mapping[str, Any], rows: int) -> list[str | None]:
    """The `error` column of a batch as text or None by row; all None where it has no such column."""
    return [error or None for error in cells(batch["error"])] if "error" in batch else [None] * rows


def error_column(errors: list[str | None]) -> np.ndarray:
    """The reverse of `errors_of`: an object array of text and nulls."""
    return object_array(installed.NULL_TEXT if error is None else error for error in errors)


def stack(arrays: Sequence[Any], dtype: Any, empty_shape: tuple[int, ...]) -> np.ndarray:
    """Arrays as a column: `(N, ...)` where their shapes agree, else an object array `(N,)` of them.

    Args:
        arrays: one array, or None, per row.
        dtype, empty_shape: of the column when there are no rows.
    """
    if not arrays:
        return np.empty((0, *empty_shape), dtype)
    if any(array is None for array in arrays) or len({array.shape for array in arrays}) > 1:
        return object_array(arrays)
    return np.stack(arrays)


def _height_and_width(size: Any) -> tuple[int, int]:
    sides: Any = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    for side in sides:
        if isinstance(side, bool) or not isinstance(side, int) or side < 1:
            raise ValueError(f'size is {{"height": ..., "width": ...}} in pixels, or one number; got {size!r}')
    return sides
