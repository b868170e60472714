"""Which of the files of an input are looked at: hidden files and those that the user excludes are not."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from glob import has_magic

from ray_segformer.guesses import Guess
from ray_segformer.inputs.image_input import InputError
from ray_segformer.inputs.paths import readable

# Besides names that start with a dot: what Windows and macOS leave in folders and archives.
_HIDDEN_NAMES = ("Thumbs.db", "desktop.ini", "__MACOSX")
_MOST_NAMED = 5


def is_hidden(relative: str) -> bool:
    """Return whether a path below the input's root is a hidden file, or in a hidden folder."""
    return any(_is_hidden_name(name) for name in relative.split("/"))


def below(path: str, folder: str) -> str:
    """Return a path relative to a folder that it is in."""
    return path.removeprefix(folder.rstrip("/")).lstrip("/") if folder else path


def without_excluded(paths: list[str], folder: str, exclude: Sequence[str], shown: str) -> list[str]:
    """Return the paths that no glob of `exclude` matches: neither relative to `folder`, nor the file's name alone.

    `*` also matches `/`. Upper and lower case differ.

    Raises:
        InputError: a glob matches nothing.
    """
    kept = paths
    for pattern in exclude:
        excluded = {path for path in paths if is_excluded(below(path, folder), pattern)}
        if not excluded:
            raise InputError(
                f"{shown}: the exclude {pattern!r} matches no file there; it is compared with paths relative to the "
                "input, and with names of files"
            )
        kept = [path for path in kept if path not in excluded]
    return kept


def is_excluded(relative: str, pattern: str) -> bool:
    """Return whether a glob of `exclude` matches a path that is relative to the input."""
    return fnmatchcase(relative, pattern) or fnmatchcase(posixpath.basename(relative), pattern)


def without_hidden(paths: list[str], folder: str, shown: str) -> tuple[list[str], list[Guess]]:
    """Return the paths that are not hidden below a folder, and what is to be said about the others."""
    is_visible = [not is_hidden(below(path, folder)) for path in paths]
    hidden = [below(path, folder) for path, visible in zip(paths, is_visible, strict=True) if not visible]
    if not hidden:
        return paths, []
    count = "1 hidden file was" if len(hidden) == 1 else f"{len(hidden)} hidden files were"
    named = ", ".join([*map(readable, hidden[:_MOST_NAMED]), *(["..."] if len(hidden) > _MOST_NAMED else [])])
    guess = Guess("hidden-files", f"{shown}: {count} left out ({named})", len(hidden))
    return [path for path, visible in zip(paths, is_visible, strict=True) if visible], [guess]


def other_kinds(paths: list[str], shown: str) -> list[Guess]:
    """Return what is to be said about files of an input whose suffix says that they hold no images."""
    if not paths:
        return []
    suffixes = Counter(posixpath.splitext(path.lower())[1] or "without a suffix" for path in paths)
    kinds = [f"{readable(suffix)} {count}" for suffix, count in suffixes.most_common(_MOST_NAMED)]
    if len(suffixes) > _MOST_NAMED:
        kinds.append(f"{len(suffixes) - _MOST_NAMED} more kinds")
    count = "1 file of another kind was" if len(paths) == 1 else f"{len(paths)} files of other kinds were"
    return [Guess("other-files", f"{shown}: {count} not looked at ({', '.join(kinds)})", len(paths))]


def matches(relative: str, pattern: str) -> bool:
    """Return whether a relative path matches a relative glob, as Python's `glob` has it with `recursive=True`.

    `*` does not match `/`, and `**` matches any number of folders. Hidden names match only a part that names them.
    """
    return _parts_match(relative.split("/"), pattern.split("/"))


def names_hidden(relative: str, pattern: str) -> bool:
    """Return whether a relative path has a name like `Thumbs.db` that the pattern does not have, too."""
    return any(name in _HIDDEN_NAMES and name not in pattern.split("/") for name in relative.split("/"))


def _parts_match(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        into = bool(names) and not _is_hidden_name(names[0]) and _parts_match(names[1:], parts)
        return into or _parts_match(names, parts[1:])
    if not names or not fnmatchcase(names[0], parts[0]):
        return False
    is_named = not has_magic(parts[0]) or (parts[0].startswith(".") and names[0] not in _HIDDEN_NAMES)
    return (is_named or not _is_hidden_name(names[0])) and _parts_match(names[1:], parts[1:])


def _is_hidden_name(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN_NAMES
