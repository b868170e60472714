"""Outputs of the command: masks as parquet or PNG files, overlays, and the mark of a finished run."""

from __future__ import annotations

import io
import json
import os
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from ray_segformer.images import to_rgb
from ray_segformer.viz import overlay

SUMMARY_NAME = "summary.json"
UNFINISHED_SUFFIX = ".unfinished"
_ROWS_PER_FILE = 1024

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("segmentation", pa.binary()),
        ("error", pa.string()),
    ]
)


class OutputError(ValueError):
    """An output folder that may not be written; the message says why, and what to do."""


class EncodeMasks:
    """Turns predictions into what is written: PNG bytes, and JPEG bytes of overlays. For `map_batches`, in pyarrow.

    Args:
        palette: uint8 `(classes, 3)` to draw overlays with; None to draw none. A `source` column has their images.
    """

    def __init__(self, palette: np.ndarray | None):
        self._palette = palette

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Encode a batch; a null mask gives nulls."""
        rows = []
        for row, mask in enumerate(batch["segmentation"]):
            error = batch["error"][row] if "error" in batch else None
            failed = isinstance(error, str) and error != ""
            rows.append(
                {
                    "path": str(batch["path"][row]),
                    "name": str(batch["name"][row]),
                    "height": None if failed else mask.shape[0],
                    "width": None if failed else mask.shape[1],
                    "segmentation": None if failed else _encode(mask, "PNG"),
                    "error": error if failed else None,
                    "overlay": None
                    if failed or self._palette is None
                    else _encode(overlay(to_rgb(batch["source"][row]), mask, self._palette), "JPEG", quality=90),
                }
            )
        schema = pa.schema([*SCHEMA, ("name", pa.string()), ("overlay", pa.binary())])
        return pa.Table.from_pylist(rows, schema=schema)


class OutputFolder:
    """A folder that exists under its name only when it is complete.

    Everything is written to `<path>.unfinished`, which `finish` renames. A context manager: an exception removes
    the unfinished folder; a killed process leaves it, under that name.

        path/summary.json    what was done (or another name); there when, and only when, the run finished
        path/classes.json    class names by class id
        path/masks/          part-00000.parquet ..., or one PNG an image
        path/overlays/       one JPEG an image

    Args:
        path: a local folder.
        mask_format: "parquet" or "png".
        overwrite: replace an earlier output, once the new one is complete.
        summary_name: what the summary is called.

    Raises:
        OutputError: `path` is no local path, exists (with `overwrite`: and is not an output of this class), or an
            interrupted run left its unfinished folder.
    """

    def __init__(
        self, path: str, mask_format: str = "parquet", overwrite: bool = False, summary_name: str = SUMMARY_NAME
    ):
        if "://" in path:
            raise OutputError(f"{path}: the output is a local folder; copy it from there")
        self.path = os.path.abspath(os.path.expanduser(path))
        self._unfinished = self.path + UNFINISHED_SUFFIX
        self._mask_format = mask_format
        self._summary_name = summary_name
        self._rows: list[dict[str, Any]] = []
        self._parts = 0
        self._names: set[str] = set()
        if os.path.exists(self.path) and not self._is_empty():
            if not overwrite:
                raise OutputError(f"{path} exists; name a new folder, or replace it with --overwrite")
            if not os.path.isfile(os.path.join(self.path, summary_name)):
                raise OutputError(f"{path} is no earlier output (it has no {summary_name}); name another folder")
        if os.path.exists(self._unfinished):
            if not overwrite:
                raise OutputError(
                    f"{path}{UNFINISHED_SUFFIX} is left of an interrupted run; remove it, or use --overwrite"
                )
            shutil.rmtree(self._unfinished)

    def __enter__(self) -> OutputFolder:
        os.makedirs(self._unfinished)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            shutil.rmtree(self._unfinished, ignore_errors=True)

    def write(self, row: dict[str, Any]) -> None:
        """Write a row of `EncodeMasks`."""
        name = self._unique(row["name"])
        if row.get("overlay") is not None:
            self.write_file(f"overlays/{name}.jpg", row["overlay"])
        if self._mask_format == "png":
            if row["segmentation"] is not None:
                self.write_file(f"masks/{name}.png", row["segmentation"])
            return
        self._rows.append({field: row[field] for field in SCHEMA.names})
        if len(self._rows) == _ROWS_PER_FILE:
            self._flush()

    def write_file(self, name: str, content: bytes | str) -> None:
        """Write a file, with its folders, below the output folder."""
        path = os.path.join(self._unfinished, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)

    def finish(self, summary: dict[str, Any], id2label: dict[int, str]) -> None:
        """Write what is left, mark the run as finished, and give the folder its name."""
        if self._mask_format == "parquet":
            self._flush()
        self.write_file("classes.json", _json({str(class_id): label for class_id, label in id2label.items()}))
        self.write_file(self._summary_name, _json({**summary, "finished": True}))
        replaced = self.path + ".replaced"
        if os.path.exists(self.path):
            os.rename(self.path, replaced)
        os.rename(self._unfinished, self.path)
        shutil.rmtree(replaced, ignore_errors=True)

    def _flush(self) -> None:
        if self._rows or not self._parts:
            masks = os.path.join(self._unfinished, "masks")
            os.makedirs(masks, exist_ok=True)
            table = pa.Table.from_pylist(self._rows, schema=SCHEMA)
            pa.parquet.write_table(table, os.path.join(masks, f"part-{self._parts:05d}.parquet"))
            self._rows, self._parts = [], self._parts + 1

    def _unique(self, name: str) -> str:
        """`name`, with a number where the same was written before, on any file system."""
        candidate, number = name, 1
        while candidate.lower() in self._names:
            number += 1
            candidate = f"{name}-{number}"
        self._names.add(candidate.lower())
        return candidate

    def _is_empty(self) -> bool:
        return os.path.isdir(self.path) and not os.listdir(self.path)


def _encode(pixels: np.ndarray, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
