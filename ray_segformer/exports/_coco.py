"""COCO's formats of objects and of panoptic segmentation (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ray_segformer.exports._export_format import ExportError, ExportFormat, ExportImage, Records
from ray_segformer.images import encode


class Coco(ExportFormat):
    """One annotation for each class of an image, as run lengths; and, with `panoptic`, an image of segments.

        annotations.json    images, annotations and categories
        panoptic.json       the same, of which the annotations name the segments
        panoptic/a/b.png    segments: red + 256 * green is the class id + 1, or 0 where a scene has no data

    The id of a category is the class id, and that of an image its place among those that are exported, from 1. Needs
    pycocotools, which encodes the run lengths.

    Args:
        id2label: as for `ExportFormat`.
        panoptic: whether to write the panoptic files, too. Default: False.
    """

    def __init__(self, id2label: Mapping[int, str], *, panoptic: bool = False) -> None:
        super().__init__(id2label)
        try:
            import pycocotools.mask  # noqa: F401
        except ImportError as error:
            raise ExportError(f'the format coco needs pycocotools ({error}): pip install "ray_segformer[coco]"') from (
                error
            )
        self._panoptic = panoptic
        self._classes = max(self.id2label) + 1

    def files(self, image: ExportImage) -> Mapping[str, bytes]:
        """See `ExportFormat`."""
        if not self._panoptic:
            return {}
        # A pixel without data, which no class has, belongs to no segment: it is 0.
        segments = np.where(image.mask < self._classes, image.mask.astype(np.uint32) + 1, 0)
        colours = np.stack([segments & 255, segments >> 8, np.zeros_like(segments)], axis=-1).astype(np.uint8)
        return {f"panoptic/{image.name}.png": encode(colours, "PNG")}

    def record(self, image: ExportImage) -> dict[str, Any]:
        """See `ExportFormat`."""
        from pycocotools.mask import encode as run_lengths
        from pycocotools.mask import toBbox

        height, width = image.mask.shape
        annotations = []
        for class_id, pixels in sorted(zip(image.class_ids, image.class_pixels, strict=True)):
            lengths = run_lengths(np.asfortranarray(image.mask == class_id, np.uint8))
            annotations.append(
                {
                    "category_id": class_id,
                    "segmentation": {"size": [height, width], "counts": lengths["counts"].decode()},
                    "area": pixels,
                    "bbox": [int(side) for side in toBbox(lengths)],
                    "iscrowd": 0,
                }
            )
        described = {"file_name": image.file_name, "width": width, "height": height}
        return {"image": described, "annotations": annotations, "mask": f"{image.name}.png"}

    def joint_files(self, records: Records) -> Iterator[tuple[str, Iterator[bytes]]]:
        """See `ExportFormat`."""

        def numbered() -> Iterator[dict[str, Any]]:
            """Yield the records with ids. Places in the input may repeat, where a run was resumed with other images."""
            for place, record in enumerate(records()):
                record["image"] = {"id": place + 1, **record["image"]}
                for annotation in record["annotations"]:
                    own = place * self._classes + annotation["category_id"] + 1
                    annotation |= {"id": own, "image_id": place + 1}
                yield record

        annotations = (annotation for record in numbered() for annotation in record["annotations"])
        yield "annotations.json", self._dataset(numbered, annotations)
        if self._panoptic:
            yield "panoptic.json", self._dataset(numbered, map(_segments, numbered()))

    def _dataset(self, records: Records, annotations: Iterable[Any]) -> Iterator[bytes]:
        """Yield the parts of a file of annotations."""
        categories = [
            {"id": class_id, "name": name, "supercategory": name, "isthing": 0}
            for class_id, name in self.id2label.items()
        ]
        yield b'{"images": ['
        yield from _joined(record["image"] for record in records())
        yield b'],\n"annotations": ['
        yield from _joined(annotations)
        yield b'],\n"categories": ['
        yield from _joined(categories)
        yield b"]}\n"


def _segments(record: dict[str, Any]) -> dict[str, Any]:
    """Return the panoptic annotation of an image."""
    segments = [
        {"id": each["category_id"] + 1, **{key: each[key] for key in ("category_id", "area", "bbox", "iscrowd")}}
        for each in record["annotations"]
    ]
    return {"image_id": record["image"]["id"], "file_name": record["mask"], "segments_info": segments}


def _joined(values: Iterable[Any]) -> Iterator[bytes]:
    """Yield the values of a JSON list, one on each line."""
    for separator, value in zip(itertools.chain([b"\n"], itertools.repeat(b",\n")), values, strict=False):
        yield separator + json.dumps(value, ensure_ascii=False).encode()
