"""Which of the files of an input are looked at: hidden files and those that the user excludes are not."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from glob import has_magic

from ray_segformer._guesses import Guess
from ray_segformer.inputs._image_input import InputError
from ray_segformer.inputs._paths import readable

# Besides names that start with a dot: what Windows, macOS and network storage leave in folders and archives.
# Those of the second line hold thumbnails of photos, and photos that were deleted.
_HIDDEN_NAMES = (
    *("Thumbs.db", "desktop.ini", "__MACOSX"),
    *("@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "$Recycle.Bin"),
)
_MOST_NAMED = 5
_SIDECARS = (".tfw", ".tifw", ".wld", ".msk", ".ovr")  # of TIFF files, for GDAL: coordinates, masks and overviews


def is_hidden(relative: str) -> bool:
    """Return whether a path below the input's root is a hidden file, or in a hidden folder.

    Of parquet, names that start with `_` are hidden, too: Spark and Delta keep logs and unfinished files under such.
    """
    names = relative.split("/")
    is_parquet = relative.lower().endswith(".parquet")
    return any(_is_hidden_name(name) or (is_parquet and name.startswith("_")) for name in names)


def below(path: str, folder: str) -> str:
    """Return a path relative to a folder that it is in."""
    return path.removeprefix(folder.rstrip("/")).lstrip("/") if folder else path


class Selection:
    """Which files of an input are looked at, and the warnings about the others.

    Args:
        folder: the input's folder; paths are compared relative to it.
        exclude: globs of files to leave out, which match the relative path or the file's name alone. `*` also matches
            `/`. Upper and lower case differ.
        shown: the input, for messages.
        hides: whether hidden files are left out, too. Default: True.
        output: the path of the job's own output, which is left out, too. Default: there is none below the folder.
    """

    def __init__(
        self, folder: str, exclude: Sequence[str], shown: str, *, hides: bool = True, output: str | None = None
    ) -> None:
        self._folder, self._shown, self._hides = folder, shown, hides
        self._output = None if output is None else f"{output}/"
        self._matched, self._excluded = dict.fromkeys([exclude] if isinstance(exclude, str) else exclude, False), 0
        self._hidden, self._hidden_named = 0, list[str]()
        self._others = Counter[str]()

    def takes(self, path: str) -> bool:
        """Return whether a file is looked at."""
        if self._output is not None and path.startswith(self._output):
            return False
        relative = below(path, self._folder)
        excluded = [pattern for pattern in self._matched if is_excluded(relative, pattern)]
        self._matched.update(dict.fromkeys(excluded, True))
        if excluded:
            self._excluded += 1
            return False
        if self._hides and is_hidden(relative):
            self._hidden += 1
            if len(self._hidden_named) <= _MOST_NAMED:
                self._hidden_named.append(readable(relative))
            return False
        return True

    def pass_over(self, path: str) -> None:
        """Count a file that is not looked at, since its suffix says that it holds no image."""
        self._others[posixpath.splitext(path.lower())[1] or "without a suffix"] += 1

    def check(self) -> None:
        """Check that all globs of `exclude` have matched something, when all files were seen.

        Raises:
            InputError: one has not.
        """
        for pattern, matched in self._matched.items():
            if not matched:
                raise InputError(
                    f"{self._shown}: the exclude {pattern!r} matches no file there; it is compared with paths relative "
                    "to the input, and with names of files"
                )

    @property
    def excluded(self) -> str:
        """The end of an error message where no file is left; "" if none was excluded."""
        return f"; exclude (--exclude) leaves out {self._excluded} files" if self._excluded else ""

    def guesses(self) -> list[Guess]:
        """Return the warnings about the files so far that are not looked at."""
        return [*self._guess_of_hidden(), *self._guess_of_others()]

    def _guess_of_hidden(self) -> list[Guess]:
        if not self._hidden:
            return []
        count = "1 hidden file was" if self._hidden == 1 else f"{self._hidden} hidden files were"
        more = ["..."] if self._hidden > _MOST_NAMED else []
        named = ", ".join(self._hidden_named[:_MOST_NAMED] + more)
        return [Guess("hidden-files", f"{self._shown}: {count} left out ({named})", self._hidden)]

    def _guess_of_others(self) -> list[Guess]:
        number = self._others.total()
        if not number:
            return []
        kinds = [f"{readable(suffix)} {count}" for suffix, count in self._others.most_common(_MOST_NAMED)]
        if len(self._others) > _MOST_NAMED:
            kinds.append(f"{len(self._others) - _MOST_NAMED} more kinds")
        count = "1 file of another kind was" if number == 1 else f"{number} files of other kinds were"
        message = f"{self._shown}: {count} not looked at ({', '.join(kinds)})"
        if sidecars := [suffix for suffix in _SIDECARS if suffix in self._others]:
            message += (
                f"; sidecar files of scenes ({', '.join(sidecars)}) are never read, so put what they have into the "
                "TIFF files, such as with gdal_translate"
            )
        return [Guess("other-files", message, number)]


def is_excluded(relative: str, pattern: str) -> bool:
    """Return whether a glob of `exclude` matches a path that is relative to the input."""
    return fnmatchcase(relative, pattern) or fnmatchcase(posixpath.basename(relative), pattern)


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
