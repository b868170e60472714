"""The options of `LabelFormat` as people write them: a file of colours, and a text of ids."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping

from ray_segformer.images._encoded import encoded_bytes
from ray_segformer.images._errors import ImageError
from ray_segformer.images._uris import public_uri

_CVAT = re.compile(r"(?P<name>[^:]+):(?P<color>\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)(:[^:]*)*")
_PAIR = re.compile(r"\s*(\d+)\s*=\s*(\d+)\s*")


def parse_label_map(text: str) -> dict[int, int]:
    """Return the ids in a text such as "255=1,0=0", for `LabelFormat.label_map`.

    Raises:
        ValueError: the text is of another form, an id is above 65535, or an id has two others.
    """
    label_map: dict[int, int] = {}
    for part in text.split(","):
        pair = _PAIR.fullmatch(part)
        if not pair:
            raise ValueError(f"label map: expected FROM=TO[,FROM=TO...], such as 255=1,0=0, not {part!r} in {text!r}")
        old, new = int(pair[1]), int(pair[2])
        if max(old, new) > 65535:
            raise ValueError(f"label map: class ids are in [0, 65535], not {max(old, new)}")
        if label_map.setdefault(old, new) != new:
            raise ValueError(f"label map: {old} is to become {label_map[old]} and {new}; give it once")
    return label_map


def read_label_colors(
    path: str | os.PathLike[str], id2label: Mapping[int, str], ignored: int = 255
) -> dict[tuple[int, int, int], int]:
    """Read which colour stands for which class, for `LabelFormat.colors`.

    A line of the file is `name,r,g,b`, or `name:r,g,b::` as CVAT writes it. The name is that of a class, a class id, or
    `ignored`. Empty lines and lines that start with # count as comments. A first line without numbers is a header.

    Args:
        path: a path or URI of a file in UTF-8.
        id2label: the names of the model's classes by their ids.
        ignored: the id of `ignored`.

    Returns:
        Class ids by RGB colours.

    Raises:
        ValueError: the file cannot be read, or a line is wrong. The message names the path and the line.
    """
    path = os.fspath(path)
    shown = public_uri(path)
    try:
        text = encoded_bytes(path).decode("utf-8-sig")
    except ImageError as error:
        raise ValueError(f"{shown}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: a file of colours must be UTF-8 text: {error}") from error
    colors: dict[tuple[int, int, int], int] = {}
    header_may_come = True
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, parts = _fields(line)
            if header_may_come and not any(part.isdecimal() for part in parts):
                continue
            color = _color(parts, line)
            class_id = _class_id(name, id2label, ignored)
            if colors.setdefault(color, class_id) != class_id:
                raise ValueError(f"{color} stands for class {colors[color]} already, and now for class {class_id}")
        except ValueError as error:
            raise ValueError(f"{shown}, line {number}: {error}") from error
        finally:
            header_may_come = False
    if not colors:
        raise ValueError(f"{shown}: there is no colour; expected lines of name,r,g,b")
    return colors


def _fields(line: str) -> tuple[str, list[str]]:
    """Return the name in a line, which may have commas, and the texts of its colour."""
    cvat = _CVAT.fullmatch(line.strip())
    if cvat:
        return cvat["name"].strip(), [part.strip() for part in cvat["color"].split(",")]
    name, *parts = (field.strip() for field in line.rsplit(",", 3))
    return name.strip('"'), parts


def _color(parts: list[str], line: str) -> tuple[int, int, int]:
    if len(parts) != 3 or not all(part.isdecimal() and int(part) < 256 for part in parts):
        raise ValueError(f"expected name,r,g,b with r, g and b in [0, 255], not {line.strip()!r}")
    red, green, blue = map(int, parts)
    return red, green, blue


def _class_id(name: str, id2label: Mapping[int, str], ignored: int) -> int:
    ids = [class_id for class_id, label in id2label.items() if label.strip() == name]
    if len(ids) > 1:
        raise ValueError(f"{len(ids)} classes of the model are called {name!r}; give one of their ids: {ids}")
    if ids:
        return ids[0]
    if name.isdecimal():
        class_id = int(name)
        if class_id in id2label or class_id == ignored:
            return class_id
        raise ValueError(f"{class_id} is no class id of the model, which has {min(id2label)} to {max(id2label)}")
    if name == "ignored":
        return ignored
    near = difflib.get_close_matches(name, id2label.values(), n=3) or list(id2label.values())[:3]
    raise ValueError(
        f"{name!r} is no class of the model (it has {', '.join(map(repr, near))}, ...); give a class's name or id, or "
        "`ignored`"
    )
