"""What a format is that has one file for each file of the input: for the frames of a video, or the parts of a scene."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_segformer._guesses import Guess
from ray_segformer.exports._export_format import ExportError


class SourceError(ExportError):
    """Files of an input cannot be read any more, or are others now. All other files are exported."""


@dataclass(frozen=True)
class SourcePart:
    """An image that is a part of a file, and its mask.

    Attributes:
        place: where it is in the file: the values of `SourceFormat.columns`. Empty if the image is the whole file.
        mask: class ids `(height, width)`, uint8 or uint16.
    """

    place: dict[str, Any]
    mask: npt.NDArray[np.uint8 | np.uint16]


class SourceFormat(ABC):
    """A format with one file for each file of the input. It is sent to workers, which call `write` for each.

    Args:
        id2label: class names by class id.

    Attributes:
        suffix: of its files, such as ".mp4".
        kind: the input that it needs, for messages, such as "videos".
        columns: the columns of `ImageInput.columns` that such an input has. They are the order of its images.
        guesses: as of `ExportFormat`.
        suffixes: those of the files that it needs, in lower case. Default: any.
        takes_whole_files: whether an image that is a file of its own, without these columns, can be the only part.

    Raises:
        ExportError: the format cannot hold these classes, or a package that it needs is not installed.
    """

    suffix: str
    kind: str
    columns: tuple[str, ...]
    suffixes: frozenset[str] = frozenset()
    takes_whole_files = False

    def __init__(self, id2label: Mapping[int, str]) -> None:
        self.id2label = dict(sorted(id2label.items()))
        self.guesses: list[Guess] = []

    @abstractmethod
    def write(self, source: str, parts: Iterator[SourcePart], path: str) -> None:
        """Write the file of a file of the input.

        Args:
            source: the file of the input, as the cell of an image: a path, or a URI with options.
            parts: its images that have a mask, in the order of `columns`. There is at least one, and there may be too
                many to keep.
            path: the local file to write, which does not exist yet.

        Raises:
            ExportError: the source cannot be read any more, or does not fit the masks.
        """
