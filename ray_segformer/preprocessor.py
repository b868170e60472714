"""`SegformerPreprocessor`: images in, `pixel_values` out, to the byte as transformers resizes them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from ray_segformer import _stage_times as stage_times
from ray_segformer._batch_columns import (
    RowErrors,
    check_many,
    error_column,
    is_preprocessed,
    name_column,
    paths_of,
    stack,
)
from ray_segformer.air import BatchMapper
from ray_segformer.images import (
    MAX_PIXELS,
    ImageError,
    LabelFormat,
    advice_on_size,
    cells,
    describe,
    say_where_arrays_differ,
    to_rgb,
)
from ray_segformer.pretrained import ImageSettings, preprocessor_in, settings_in
from ray_segformer.protocol import Protocol, resized

# Small enough that a task's decoded images fit in a worker's memory, large enough to pay for the task.
_BATCH_SIZE = 16
_IGNORED = 255  # the class id that transformers' loss and every ADE20K metric leave out


class SegformerPreprocessor(ImageSettings, BatchMapper):
    """The CPU stage of segmentation, as a Ray preprocessor: it decodes and resizes images.

        SegformerPreprocessor.from_pretrained("segformer-b0/").transform(read_images("photos/"))

    It adds columns to a batch, and removes the image column, which is the bulk of the data:

    * `pixel_values`: uint8 `(3, height, width)`. Pillow resizes the image to the same bytes as transformers'
      `SegformerImageProcessorPil`. They are not yet rescaled and normalised: `normalize` does that on the device. With
      `do_resize=False` images keep their own sizes.
    * `original_size`: int32 `(2,)`, height and width of the image.
    * `labels`, with an annotation column: class ids `(height, width)`, resized to the nearest, uint8 (uint16 if an id
      is above 255). 255 is ignored. The labels of a null annotation are all 255.
    * `error`, with `on_error="keep"`: why the row has no image, or null (empty text on Ray 2.6). The other columns of a
      row with an error are blank.

    Other columns stay. A batch that has `pixel_values` already passes unchanged. With `image_column="pixel_values"`, it
    passes only if it has `original_size`, too; else the column holds raw images.

    Args:
        size: what images are resized to, in pixels; see `ImageSettings`. Default: 512, a square.
        resize: None for what `do_resize` and `size` say, or one of `Protocol`'s: "square", "short-side" or "none".
        image_column: the column with image cells (see `ray_segformer.images`).
        annotation_column: the column with annotations, or None.
        on_error: "raise" an error that names the row, or "keep" the row.
        label_map: other class ids for ids of the annotations, such as `{255: 1}`; see `LabelFormat`.
        label_colors: class ids by RGB colours, `{(r, g, b): id}`, for annotations of colours; see `LabelFormat`.
        max_pixels: an image with more pixels is an error, which is found before the image is decoded. Decoding takes
            up to 18 bytes for each pixel: workers with little memory need a lower limit. With windows, a predictor
            needs less than 2 GB beside the image and its mask for 20,000 x 20,000 pixels.
        batch_format: "numpy" or "pandas".
        batch_size: rows that are preprocessed at once; None for whole blocks. Default: 16.
        settings: further settings of `ImageSettings`, such as `do_resize` and `image_mean`.

    Raises:
        TypeError: a setting is unknown.
        ValueError: an option has an invalid value, or needs `annotation_column`, which is None. On a batch: a column is
            missing, or the images are a single image.
        ImageError: on a batch, with `on_error="raise"`: a cell holds no image.
        RowError: on a batch, with `on_error="raise"`: a row raised another exception. The message names both.
    """

    def __init__(
        self,
        size: float | Sequence[float] | Mapping[str, float] = 512,
        *,
        resize: Literal["square", "short-side", "none"] | None = None,
        image_column: str = "image",
        annotation_column: str | None = None,
        on_error: Literal["raise", "keep"] = "raise",
        max_pixels: int = MAX_PIXELS,
        label_map: Mapping[int, int] | None = None,
        label_colors: Mapping[tuple[int, int, int], int] | None = None,
        batch_format: Literal["numpy", "pandas"] = "numpy",
        batch_size: int | None = _BATCH_SIZE,
        **settings: Any,
    ) -> None:
        BatchMapper.__init__(self, fn=self.preprocess, batch_format=batch_format, batch_size=batch_size)
        ImageSettings.__init__(self, size, **settings)
        _check_options(on_error, max_pixels, label_map or label_colors, annotation_column)
        self.resize = Protocol(resize).resize
        self.image_column = image_column
        self.annotation_column = annotation_column
        self.on_error = on_error
        self.max_pixels = int(max_pixels)
        self.label_format = LabelFormat(label_map or {}, label_colors, self.do_reduce_labels)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> SegformerPreprocessor:
        """Make a preprocessor from the dict of a `preprocessor_config.json` of any age.

        Args:
            config: the dict. Missing settings have transformers' defaults.
            options: arguments of the class, which win over the settings. With `label_colors`, labels are not reduced
                unless `do_reduce_labels` says so here.
        """
        if options.get("label_colors"):
            options = {"do_reduce_labels": False, **options}  # colours have the model's own class ids
        return cls(**{**settings_in(config), **options})

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], **options: Any) -> SegformerPreprocessor:
        """Make a preprocessor from `processor_config.json` or `preprocessor_config.json`, as checkpoints read them.

        Args:
            directory: a local directory.
            options: arguments of the class, which win over the settings.

        Raises:
            FileNotFoundError: neither file is there.
            ValueError: it is not JSON, or a setting has no meaning here.
        """
        path, config = preprocessor_in(os.fspath(directory))
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        try:
            return cls.from_config(config, **options)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error

    def _transform_numpy(self, np_data: Any) -> Any:
        with stage_times.reported():
            return self.preprocess(np_data)  # It writes into no array, so that it may get a read-only view.

    def _transform_pandas(self, df: pd.DataFrame) -> pd.DataFrame:
        with stage_times.reported():
            result: pd.DataFrame = self.preprocess(df)
            return result

    def preprocess(self, batch: Any, *, threads: int = 1) -> Any:
        """Preprocess one batch, without Ray.

        Args:
            batch: a dict of arrays, an array or a DataFrame. It is not changed.
            threads: how many images to decode and resize at the same time. Pillow releases the GIL.

        Returns:
            A new batch of the same type (a dict for an array). A preprocessed batch is returned as it is.
        """
        if isinstance(batch, np.ndarray):
            batch = name_column(batch, self.image_column, (self.height, self.width) if self._has_one_size else None)
        if is_preprocessed(batch, self.image_column):
            return batch
        for column in filter(None, (self.image_column, self.annotation_column)):
            if column not in batch:
                empty = "; leave feature_columns= out, which chooses among the columns after preprocessing"
                raise ValueError(
                    f"the batch has no column {column!r}, only {list(batch)}; name the right one with "
                    f"image_column= or annotation_column={'' if list(batch) else empty}"
                )
        check_many(batch[self.image_column])
        rows = self._rows(batch, threads)
        columns = {name: batch[name] for name in batch if name != self.image_column}
        if isinstance(batch, pd.DataFrame):
            cells_of = {name: list(values) for name, values in rows.items()}
            return pd.DataFrame({**columns, **cells_of}, index=batch.index)
        return {**columns, **rows}

    def _rows(self, batch: Mapping[str, Any], threads: int) -> dict[str, npt.NDArray[Any]]:
        """Return the columns to add."""
        images = list(cells(batch[self.image_column]))
        annotations = list(cells(batch[self.annotation_column])) if self.annotation_column else [None] * len(images)
        errors = RowErrors(batch, len(images), self.on_error)
        say_where_arrays_differ(images, paths_of(batch, len(images)))

        def preprocess_row(row: int) -> tuple[npt.NDArray[Any], tuple[int, ...], npt.NDArray[Any] | None]:
            if errors.texts[row] is None:
                try:
                    return self._row(images[row], annotations[row])
                except Exception as error:
                    path = None
                    with contextlib.suppress(Exception):  # of a cell that is odd enough to have raised something else
                        path = describe(images[row])
                    errors.add(row, error, path=path)
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
            columns["labels"] = stack(_annotated(labels, pixel_values), np.uint8, shape[1:])
        if self.on_error == "keep":
            columns["error"] = error_column(errors.texts)
        return columns

    def _row(self, cell: Any, annotation: Any) -> tuple[npt.NDArray[Any], tuple[int, ...], npt.NDArray[Any] | None]:
        """Return pixel values, original size and labels of one row; None for labels that are not annotated."""
        with stage_times.timed("decode"):
            rgb, labels = _decoded(cell, annotation, self.label_format, self.max_pixels)
        size = rgb.shape[:2]
        with stage_times.timed("resize"):
            height, width = resized(self.resize, self, *size)
            if (height, width) != size:
                if max(size[0], height) * width > max(self.max_pixels, MAX_PIXELS):  # Pillow first widens all rows.
                    raise ImageError(f"too large: {size[0]} rows, each resized from {size[1]} to {width} pixels")
                rgb = np.asarray(Image.fromarray(rgb).resize((width, height), self.resample))
                if labels is not None:
                    labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        return rgb.transpose(2, 0, 1), size, labels

    def _blank(self) -> tuple[npt.NDArray[Any], tuple[int, int], None]:
        height, width = (self.height, self.width) if self._has_one_size else (1, 1)
        return np.zeros((3, height, width), np.uint8), (0, 0), None

    @property
    def _has_one_size(self) -> bool:
        """Whether all images are resized to the same size."""
        return self.resize == "square" or (self.resize is None and self.do_resize)

    def __repr__(self) -> str:
        return f"SegformerPreprocessor(size=({self.height}, {self.width}), image_column={self.image_column!r})"


def _check_options(on_error: str, max_pixels: int, labels: Any, annotation_column: str | None) -> None:
    if on_error not in ("raise", "keep"):
        raise ValueError(f'on_error is "raise" or "keep", not {on_error!r}')
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, (int, np.integer)) or max_pixels < 1:
        raise ValueError(f"max_pixels is a whole number of at least 1, not {max_pixels!r}")
    if labels and annotation_column is None:
        raise ValueError(
            "label_map and label_colors say how annotations are stored; name their column with annotation_column"
        )


def _annotated(labels: Sequence[Any], pixel_values: Sequence[Any]) -> list[npt.NDArray[Any]]:
    """Return the labels of each row, all ignored where there are none."""
    rows = zip(labels, pixel_values, strict=True)
    return [np.full(pixels.shape[1:], _IGNORED, np.uint8) if own is None else own for own, pixels in rows]


def _decoded(
    cell: Any, annotation: Any, label_format: LabelFormat, max_pixels: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return RGB and labels of one row, at the image's own size; None for labels that are not annotated."""
    rgb = to_rgb(cell, max_pixels)
    size = rgb.shape[:2]
    if annotation is None:
        return rgb, None
    try:
        labels = label_format.class_ids(annotation, max_pixels)
    except ImageError as error:
        path = describe(annotation)
        raise ImageError("wrong annotation" + (f" ({path})" if path else "") + f": {error}") from error
    if labels.shape != size:
        raise ImageError(
            f"wrong annotation: the annotation is {labels.shape} but its image is {size}, (height, width); "
            f"{advice_on_size(labels.shape, size)}"
        )
    return rgb, labels
