"""Names of output files: relative to the output, valid, and different on every common file system."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ray_segformer.inputs._paths import NOT_TEXT, readable_part
from ray_segformer.inputs._row_keys import digests_of

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_FILE_SUFFIXES = (".png", ".jpg")  # that outputs add to names
_MAX_PART = 255  # bytes in the name of a folder, or of a file with its suffix: the limit of common file systems
_MAX_PATH = 2048  # bytes in a relative path; Linux allows 4096 in an absolute one
_MAX_STEM = _MAX_PART - 5  # leaves room for a suffix


def folded(name: str) -> str:
    """Return a name in a form that is equal for names which some file systems cannot tell apart.

    Such file systems ignore upper and lower case, or whether an accented letter is one character or two.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def unique_names(paths: Sequence[str], folder: str, keys: Sequence[str]) -> list[str]:
    """Return a different name for each file: its path relative to `folder`, without suffix.

    Where two names would be equal, the suffix stays. Where they would be still, a digest of the row's key is added.

    Args:
        paths: the paths of the files.
        folder: the input's folder.
        keys: the keys of the rows, which differ.
    """
    relative = [_relative(path, folder) for path in paths]
    names = [valid_name(posixpath.splitext(path)[0]) for path in relative]
    digests = digests_of_names(names)
    for adds_digest in (False, True):
        places = np.flatnonzero(np.isin(digests, repeated(digests))).tolist()
        for place in places:
            names[place] = with_digest(names[place], keys[place]) if adds_digest else valid_name(relative[place])
        digests[places] = digests_of_names(names[place] for place in places)
    return names


def file_name_of(path: str, folder: str) -> str:
    """Return a name for a file: its path relative to `folder`, without suffix. Other files may have it, too."""
    return valid_name(posixpath.splitext(_relative(path, folder))[0])


def name_of(path: str) -> str:
    """Return a path without its suffix, as a relative path that stays below the folder it is joined to."""
    return valid_name(posixpath.splitext(safe_path(path))[0] or "image")


def name_of_part(name: str, place: Iterable[int]) -> str:
    """Return the name of a part of a file, such as `clip/000123`.

    Args:
        name: the name of the file.
        place: the numbers that say which part it is.
    """
    return valid_name(f"{name}/{'-'.join(f'{number:06d}' for number in place)}")


def key_of_part(key: str, place: Mapping[str, int]) -> str:
    """Return the key of a part of a file, such as `clip.mp4#frame=123`, from that of the file. See `name_of_part`."""
    return f"{key}#{','.join(f'{name}={number}' for name, number in place.items())}"


def with_digest(name: str, key: str) -> str:
    """Return a name with a digest of a row's key, so that it differs from all others."""
    folder, slash, stem = name.rpartition("/")
    beginning = stem.encode()[: _MAX_STEM - 17].decode(errors="ignore")
    return f"{folder}{slash}{beginning}~{_digest(key)}"


def _relative(path: str, folder: str) -> str:
    return safe_path(path).removeprefix(safe_path(folder) + "/") or "image"


def safe_path(path: str) -> str:
    """Return a path without scheme, root and `..`.

    Control characters become `_`. Bytes that are not UTF-8 are percent-encoded, such as `%E9`.
    """
    parts = path.split("://")[-1].replace("\\", "/").split("/")
    path = "/".join(part for part in parts if part not in ("", ".", ".."))
    return _CONTROL.sub("_", NOT_TEXT.sub(lambda found: readable_part(found[0]), path))


def valid_name(name: str) -> str:
    """Return a relative name that file systems take.

    Long parts are shortened to their beginning and a digest of the whole. A folder whose name ends like an output file
    gets a `_`, since there may be such a file beside it.
    """
    *folders, stem = name.split("/")
    if len(name.encode()) > _MAX_PATH:
        folders, stem = [], f"{stem}~{_digest(name)}"
    folders = [folder + "_" if folder.lower().endswith(_FILE_SUFFIXES) else folder for folder in folders]
    return "/".join((*(_shortened(folder, _MAX_PART) for folder in folders), _shortened(stem, _MAX_STEM)))


def digests_of_names(names: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return digests of names, S16 `(N,)`, that are equal where some file system cannot tell the names apart."""
    return digests_of(map(folded, names))


def repeated(digests: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bytes_]:
    """Return the digests that occur more than once, sorted."""
    values, counts = np.unique(digests, return_counts=True)
    return values[counts > 1]


def is_among(names: Iterable[str], digests: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    """Return for each name whether its digest is among others: bool `(N,)`."""
    return np.isin(digests_of_names(names), digests)


def _shortened(part: str, limit: int) -> str:
    """Return `part` if it has at most `limit` bytes; else its beginning, and a digest of the whole."""
    content = part.encode()
    if len(content) <= limit:
        return part
    return content[: limit - 17].decode(errors="ignore") + "~" + _digest(part)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
