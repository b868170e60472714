"""Pre-annotations of Label Studio: brush strokes as its own run lengths, and the labels of a project."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from ray_segformer._class_names import distinct_names
from ray_segformer.exports._export_format import ExportFormat, ExportImage, Records
from ray_segformer.viz import class_palette

_WORD_BITS = 8  # of a value
_LENGTH_BITS = (3, 4, 8, 16)  # a run's length is written with the fewest of these bits that hold it
_CHANNELS = 4  # of a pixel, all of which have its value


class LabelStudio(ExportFormat):
    """Tasks with a prediction for each image, which people then correct.

        tasks.json          to be imported: the path of each image, and a brush stroke for each class
        label_config.xml    the labeling interface of the project: the classes and their colours

    Label Studio must be able to read the images by these paths. See `ExportFormat`.
    """

    shows_files = True

    def __init__(self, id2label: Mapping[int, str]) -> None:
        super().__init__(id2label)
        self.id2label = distinct_names(self.id2label)  # a label is its name

    def files(self, image: ExportImage) -> Mapping[str, bytes]:
        """See `ExportFormat`."""
        return {}

    def record(self, image: ExportImage) -> dict[str, Any]:
        """See `ExportFormat`."""
        height, width = image.mask.shape
        strokes = [
            {
                "id": f"{image.index}-{class_id}",
                "type": "brushlabels",
                "from_name": "tag",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "format": "rle",
                    "rle": list(run_lengths(image.mask == class_id)),
                    "brushlabels": [self.id2label[class_id]],
                },
            }
            for class_id in sorted(image.class_ids)
        ]
        return {"data": {"image": image.path}, "predictions": [{"result": strokes}]}

    def joint_files(self, records: Records) -> Iterator[tuple[str, Iterator[bytes]]]:
        """See `ExportFormat`."""
        palette = class_palette(self.id2label)
        labels = "".join(
            f'    <Label value={quoteattr(name)} background="#{palette[class_id].tobytes().hex()}"/>\n'
            for class_id, name in self.id2label.items()
        )
        interface = (
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="tag" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
        )
        yield "label_config.xml", iter([interface.encode()])
        yield "tasks.json", self._tasks(records)

    def _tasks(self, records: Records) -> Iterator[bytes]:
        for separator, record in zip(itertools.chain([b"[\n"], itertools.repeat(b",\n")), records(), strict=False):
            yield separator + json.dumps(record, ensure_ascii=False).encode()
        yield b"\n]\n"


def run_lengths(mask: npt.NDArray[np.bool_]) -> bytes:
    """Return a mask in the run-length format of Label Studio (the package rle-pack of thi.ng/umbrella).

    It is a stream of bits: the number of values (32 bits), the bits of a value less 1 (5), four numbers of bits for
    lengths, each less 1 (4); then runs: a 1, which of the four (2), the length less 1, and the value, 255 or 0.
    """
    pixels = mask.ravel()
    starts = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
    lengths = np.diff(np.append(starts, pixels.size)) * _CHANNELS
    most = 2 ** _LENGTH_BITS[-1]
    bits = [f"{pixels.size * _CHANNELS:032b}{_WORD_BITS - 1:05b}", *(f"{each - 1:04b}" for each in _LENGTH_BITS)]
    for length, value in zip(lengths.tolist(), (pixels[starts] * 255).tolist(), strict=True):
        for first in range(0, length, most):
            part = min(length - first, most)
            kind = next(kind for kind, each in enumerate(_LENGTH_BITS) if part <= 2**each)
            bits.append(f"1{kind:02b}{part - 1:0{_LENGTH_BITS[kind]}b}{value:08b}")
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return int(stream, 2).to_bytes(len(stream) // 8, "big")
