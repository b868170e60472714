"""The error for a cell that holds no readable image, and its causes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from PIL import Image

CAUSES = (
    *("null", "empty", "cannot read", "not an image", "cannot decode", "too large", "too small"),
    *("wrong type", "wrong shape", "wrong pixels", "wrong annotation"),
)
"""The message of every `ImageError` starts with one of these."""

_CAUSE = re.compile(
    rf"(?:row \d+ of the batch(?: \(.*?\))?: )?({'|'.join(CAUSES)})(?=: | the | in | for | \()", re.DOTALL
)


class ImageError(ValueError):
    """A cell holds no readable image. The message starts with one of `CAUSES`, and says what was expected."""


def cause_of(error: str) -> str:
    """Return the one of `CAUSES` that a text of an `error` column starts with; "other" if it starts with none.

    A leading "row 3 of the batch (path): " is skipped.
    """
    found = _CAUSE.match(error)
    return found[1] if found else "other"


@contextlib.contextmanager
def as_image_error(action: str) -> Iterator[None]:
    """Raise any exception of the `with` block as an `ImageError`, "cannot <action>: ...".

    Pillow's decoders and pyarrow's file systems raise exceptions of many types.
    """
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        # For WebP, TIFF, and GIF with an odd first frame, Pillow itself checks its limit, twice MAX_IMAGE_PIXELS.
        raise ImageError(
            f"too large for Pillow in this format; raise its own limit, PIL.Image.MAX_IMAGE_PIXELS: {error}"
        ) from error
    except Exception as error:
        reason = str(error) or type(error).__name__  # the text of a MemoryError is empty
        raise ImageError(f"cannot {action}: {reason}") from error
