"""Columns of parquet that hold images or annotations: their types, and how each becomes a column of image cells."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ray_segformer._guesses import Guess
from ray_segformer.inputs._image_input import ColumnTypeError, InputError
from ray_segformer.inputs._location import FileName, Location
from ray_segformer.inputs._paths import readable

# Columns of encoded bytes that people, and tools such as WebDataset, call so. Others come after these, and columns of
# annotations last.
_IMAGE_COLUMNS = ("img", "photo", "picture", "pixel_values", "jpg", "jpeg", "png", "webp")
_ANNOTATION_COLUMNS = ("annotation", "mask", "label", "labels", "segmentation", "cls")
# Columns of bytes that are no images: shapes on a map (GeoParquet), and digests.
_OTHER_BYTES = ("geometry", "geom", "wkb", "hash", "phash", "md5", "sha1", "sha256", "digest")
# Columns of paths, if there is no column of encoded bytes.
_PATH_COLUMNS = ("image_path", "path", "file_name", "filename", "file_path", "filepath")
_LONGEST_PATH = 4096


def image_column_of(schema: pa.Schema, shown: str) -> tuple[str, list[Guess]]:
    """Return the column `image`, else one that can hold encoded images, else a column of paths.

    Of several that can, one that is called like an image comes first.

    Returns:
        Its name, and a warning if other columns could be meant.

    Raises:
        InputError: there is no such column.
    """
    if "image" in schema.names:
        return "image", []
    encoded = [field.name for field in schema if _has_bytes(field.type) and field.name.lower() not in _OTHER_BYTES]
    found = encoded or [name for name in _PATH_COLUMNS if name in schema.names and _is_text(schema.field(name).type)]
    if not found:
        raise InputError(
            f'{shown}: no image column; expected a column of encoded bytes or {{"bytes", "path"}}, or paths in the '
            f"column image or {' or '.join(_PATH_COLUMNS)}; found {', '.join(schema.names)}"
        )
    if len(found) == 1:
        return found[0], []
    chosen, *others = sorted(found, key=_rank)
    message = f"{shown}: there is no column image; images are read from {chosen}, and not from {', '.join(others)}"
    return chosen, [Guess("image-column", message)]


def _rank(column: str) -> int:
    """Return how likely a column holds images, by its name: a low number for a likely one."""
    name = column.lower()
    return 0 if name in _IMAGE_COLUMNS else 2 if name in _ANNOTATION_COLUMNS else 1


def check_column(schema: pa.Schema, column: str, shown: str) -> None:
    """Raise an `InputError` if a column is missing, not the only one of its name, or of a type that holds no cells."""
    if column not in schema.names:
        raise InputError(f"{shown}: {no_column(column, schema.names)}")
    if schema.names.count(column) > 1:
        raise InputError(f"{shown}: {schema.names.count(column)} columns are called {column!r}; rename all but one")
    kind = schema.field(column).type
    if not (_is_binary(kind) or _is_text(kind) or _has_bytes(kind) or _has_path(kind)):
        raise ColumnTypeError(
            f"{shown}: the column {column!r} is of the type {kind}; expected encoded bytes, paths, or "
            '{"bytes", "path"}'
        )


def no_column(column: str, names: Sequence[str]) -> str:
    """Return what is wrong with a table that lacks a column, and what to do."""
    return (
        f"no column {column!r}, only {', '.join(names)}; name the right one with --image-column or --annotation-column "
        "(image_column=, annotation_column=)"
    )


class CellColumn:
    """A column of image cells, ready for a dataset, and the files that its rows name.

    Args:
        column: the column as it is in the file.
        location: the parquet file. Relative paths are relative to its folder.
        as_struct: make cells of `{"bytes", "path"}` of any type, so that those of files of other types can join them.
            Default: False.

    Attributes:
        array: the cells. A path or URI is absolute, and has the options of `location`.
        contents: for each row its encoded bytes, or None.
        labels: for each row the path that goes with its bytes, or None.
        files: for each row the file to read, if it has a path instead of bytes, else None.
        written: for each row the path as it is in the table, also one that goes with bytes, and of a URI its path; for
            the name of the mask.
    """

    def __init__(self, column: pa.Array, location: Location, *, as_struct: bool = False) -> None:
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.dictionary_decode(), kind.value_type
        values = column.to_pylist()
        if pa.types.is_struct(kind):
            self.contents = [None if value is None else value.get("bytes") for value in values]
            self.labels = [None if value is None else value.get("path") for value in values]
        else:
            self.contents = [None if isinstance(value, str) else value for value in values]
            self.labels = [_without_base64(value) if isinstance(value, str) else None for value in values]
        self.files = [
            _named_in(location, label) if content is None and label else None
            for content, label in zip(self.contents, self.labels, strict=True)
        ]
        self.written = [
            _named_in(location, label).plain if label and "://" in label else label for label in self.labels
        ]
        cells = [None if file is None else file.cell for file in self.files]
        if _is_binary(kind) and not as_struct:
            self.array = column
        elif _is_text(kind) and not as_struct:
            self.array = pa.array(cells, pa.string())
        else:
            paths = [cell or label for cell, label in zip(cells, self.labels, strict=True)]
            structs = [
                None if value is None else {"bytes": content, "path": path}
                for value, content, path in zip(values, self.contents, paths, strict=True)
            ]
            index = -1 if as_struct else kind.get_field_index("bytes")
            bytes_type = kind.field(index).type if index >= 0 and _is_binary(kind.field(index).type) else pa.binary()
            self.array = pa.array(structs, pa.struct([("bytes", bytes_type), ("path", pa.string())]))


def path_columns(schema: pa.Schema, column: str) -> list[str]:
    """Return what to read of a column of images for its paths alone; nothing if it has none."""
    kind = schema.field(column).type
    if pa.types.is_struct(kind):
        return [f"{column}.path"] if _has_path(kind) else []
    return [column] if _is_text(kind) else []


def as_text(path: Any) -> str:
    """Return a value of a `path` column as text. Such a column may hold bytes or numbers; null gives ""."""
    if path is None:
        return ""
    return readable(os.fsdecode(path)) if isinstance(path, bytes) else str(path)


def _without_base64(text: str) -> str:
    """Return a text as a path. One that is no path is cut, and says so: errors and outputs have it."""
    if len(text) <= _LONGEST_PATH:
        return text
    return f"{text[:40]}... (this text of {len(text)} letters is no path; if it is base64, decode it to bytes)"


def _named_in(location: Location, path: str) -> FileName:
    try:
        return location.named_in(path)
    except InputError:  # `..` out of the bucket: the row fails when it is read, and no other
        return FileName(path, path, path)


def _is_text(kind: pa.DataType) -> bool:
    return _value_name(kind) in ("string", "large_string", "string_view")


def _is_binary(kind: pa.DataType) -> bool:
    return _value_name(kind) in ("binary", "large_binary", "binary_view")


def _value_name(kind: pa.DataType) -> str:
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _has_bytes(kind: pa.DataType) -> bool:
    """Return whether a type holds encoded bytes, alone or in a struct."""
    if not pa.types.is_struct(kind):
        return _is_binary(kind)
    index = kind.get_field_index("bytes")
    if index < 0:
        return False
    field = kind.field(index).type
    return _is_binary(field) or (pa.types.is_null(field) and _has_path(kind))


def _has_path(kind: pa.DataType) -> bool:
    """Return whether a type is a struct with a path, whose bytes, if it has any, are of the right type."""
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return False
    index = kind.get_field_index("bytes")
    bytes_type = kind.field(index).type if index >= 0 else pa.null()
    return _is_text(kind.field(kind.get_field_index("path")).type) and (
        _is_binary(bytes_type) or pa.types.is_null(bytes_type)
    )
