"""What all pages share: their head, which forbids them to load anything, and text that is put in safely."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources
from string import Template

_SMALL_SHARE = 0.001  # Smaller ones are shown with more digits.


def html_page(template: str, **fields: str) -> str:
    """Return an HTML page that loads no other files, and runs no script but its own.

    Args:
        template: HTML with `$head` in its head, at most one script, and further fields.
        fields: HTML by field. What comes from files or users must be escaped; see `escape`.

    Returns:
        HTML, to be written as UTF-8.
    """
    script = template.partition("<script>")[2].partition("</script>")[0]  # The page allows only this one, by its hash.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head = resources.files(__package__).joinpath("head.html").read_text("utf-8")
    return Template(template).substitute(head=Template(head).substitute(script_digest=digest), **fields)


def escape(text: object) -> str:
    """Escape text for an element or a quoted attribute. Characters that UTF-8 cannot encode become "?"."""
    return html.escape(str(text).encode("utf-8", "replace").decode())


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def is_small(share: float) -> bool:
    """Return whether a share in [0, 1] is less than a tenth of a percent."""
    return share < _SMALL_SHARE


def percent(share: float) -> str:
    """Return a share in [0, 1] as text, such as "12.3%" or "0.012%"."""
    return f"{share:.3%}" if is_small(share) else f"{share:.1%}"


def swatch(colour: Sequence[int]) -> str:
    """Return a small square of an RGB colour."""
    red, green, blue = (int(value) for value in colour)
    return f'<span class="swatch" style="background:rgb({red} {green} {blue})"></span>'
