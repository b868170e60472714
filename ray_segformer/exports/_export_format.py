"""What a format of another program is: the files of each image, and those of all images together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer._guesses import Guess


class ExportError(ValueError):
    """An output cannot be exported to a format. The message says why, and what to do."""


@dataclass(frozen=True)
class ExportImage:
    """An image of an output, and its mask.

    Attributes:
        path: its path or URI.
        file_name: its path relative to the input; of a part of a file, such as a frame, with its place in the file.
        name: the same without suffix, for files. It differs from those of all other images on every common file system.
        index: its place in the input, from 0.
        mask: class ids `(height, width)`, uint8 or uint16. 255, or 65535 of uint16, is no class, but a pixel of a scene
            that has no data.
        class_ids, class_pixels: the classes that occur, most pixels first, and how many pixels each has.
    """

    path: str
    file_name: str
    name: str
    index: int
    mask: npt.NDArray[np.uint8 | np.uint16]
    class_ids: list[int]
    class_pixels: list[int]


Records = Callable[[], Iterator[dict[str, Any]]]


class ExportFormat(ABC):
    """A format. It is sent to workers, which call `files` and `record` for each image.

    Args:
        id2label: class names by class id.

    Attributes:
        guesses: the warnings about these classes; none by default.
        shows_files: whether its program opens the files of the images, and so needs images that have one each.

    Raises:
        ExportError: the format cannot hold these classes, or a package that it needs is not installed.
    """

    shows_files = False

    def __init__(self, id2label: Mapping[int, str]) -> None:
        self.id2label = dict(sorted(id2label.items()))
        self.guesses: list[Guess] = []

    @abstractmethod
    def files(self, image: ExportImage) -> Mapping[str, bytes]:
        """Return the content of the files of an image, by their names."""

    @abstractmethod
    def record(self, image: ExportImage) -> dict[str, Any]:
        """Return what the files of all images together need to know of an image. JSON must be able to hold it."""

    @abstractmethod
    def joint_files(self, records: Records) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield the files of all images together: their names, and the parts of their content.

        Args:
            records: starts an iterator over the records of all images, in the order of the input. There may be
                millions, so they are not to be kept.
        """
