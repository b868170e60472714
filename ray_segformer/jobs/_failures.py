"""What went wrong in a job, in one sentence: the cause of an exception, without Ray's traceback and advice."""

from __future__ import annotations

import os
import re
import tempfile
import traceback
from dataclasses import dataclass

import ray

# Exceptions of this package whose messages say all that a user needs.
_FORESEEN = frozenset(
    (
        *("ImageError", "InputError", "CheckpointError", "ExportError", "OutputError", "ResourceError"),
        *("DeadlyBatchError", "WorkerStartError"),
    )
)
_ROW_ERROR = "RowError"
_WRAPPERS = frozenset(("UserCodeException", "RayDataUserCodeException", "RayTaskError", "SystemException"))

# Where a traceback goes over to the next of its exceptions.
_CHAINED = re.compile(
    r"^(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):$",
    re.MULTILINE,
)
# The first line of an exception in a traceback: its module, its name, and its message if it has one.
_HEAD = re.compile(r"((?:\w+\.)*)([A-Za-z_]\w*)(?:\(\w+\))?(?:: (.*))?")
_ADVICE = ' Pass on_error="keep" to keep such rows.'  # for Python; a command has a hint of its own
# What Ray Data appends to the message of an exception: how often it tried, and its settings for that.
_TRIES = re.compile(r"\s+Failed to [^\n]+ after \d+/\d+ attempts \(total backoff .*", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    Attributes:
        message: what was wrong, and where, if that is known. It may have several lines.
        name: the name of the exception's class.
        foreseen: whether the message explains itself. Otherwise the developers want to see the traceback, too.
    """

    message: str
    name: str
    foreseen: bool

    @property
    def keepable(self) -> bool:
        """Whether a row failed, and with `on_error="keep"` the job would go on."""
        return self.name == "ImageError" or (self.name == _ROW_ERROR and 'on_error="keep"' in self.message)


def failure_of(error: BaseException) -> Failure:
    """Return what went wrong, from an exception that a job raised.

    Ray wraps the exceptions of its workers. It hands over some of them as exceptions. Of others, such as those in
    Ray Data or in the constructor of an actor, it hands over only the text of the traceback, which is parsed here.
    """
    cause = error
    while isinstance(cause, ray.exceptions.RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    if not isinstance(cause, ray.exceptions.RayError):
        return _failure(type(cause).__module__, type(cause).__name__, str(cause))
    text = _COLOUR.sub("", str(error))
    for part in reversed(_CHAINED.split(text)):
        found = _exception_in(part)
        if found is not None:
            return found
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _failure(type(cause).__module__, type(cause).__name__, lines[0] if lines else "")


def explain(error: BaseException, hint: str = "") -> str:
    """Return in one sentence what went wrong and, for an unexpected exception, where the whole traceback is.

    The traceback is written into a new file in the temporary folder. It is not written into an output, which must not
    look finished, nor get files that a resumed job does not expect.

    Args:
        error: an exception that a job raised.
        hint: what the user can do. It follows the message.
    """
    failure = failure_of(error)
    path = None if failure.foreseen else _write_traceback(error)
    message = failure.message.removesuffix(_ADVICE)
    if hint or message != failure.message:
        message = message.removesuffix(".")
    return message + hint + (f" (traceback: {path})" if path else "")


def _write_traceback(error: BaseException) -> str | None:
    """Write a traceback, and return the path of the file; None if it cannot be written."""
    text = _COLOUR.sub("", "".join(traceback.format_exception(error)))
    try:
        file, path = tempfile.mkstemp(prefix="ray-segformer-", suffix=".traceback.txt")
        with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError:
        return None
    return path


def _exception_in(part: str) -> Failure | None:
    """Return the exception at the end of a traceback's text; None if there is none, or if it only wraps another."""
    lines = part.splitlines()
    for number, line in enumerate(lines):
        head = _HEAD.fullmatch(line.rstrip())
        if head and head[2] not in _WRAPPERS and (head[3] is not None or number > 0):
            message = "\n".join([head[3] or "", *lines[number + 1 :]])
            return _failure(head[1].rstrip("."), head[2], message)
    return None


def _failure(module: str, name: str, message: str) -> Failure:
    message = _TRIES.sub("", message).strip()
    own = module.split(".")[0] == "ray_segformer"
    if own and (name in _FORESEEN or name == _ROW_ERROR):
        return Failure(message, name, name in _FORESEEN)
    return Failure(": ".join(filter(None, (name, message))), name, False)
