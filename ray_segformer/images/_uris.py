"""URIs of images: as pyarrow's file systems read them, and as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import quote

# What a path in a URI may hold unquoted. `#` is not among them: no file system has fragments.
_IN_PATH = "/:@!$&'()*+,;=~"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

# A user and a password, up to the `@`. A password may hold a `/` that somebody forgot to quote, but a number after the
# colon is the port of a host.
_PASSWORD = re.compile(r"[^/?#@]*:(?!\d*(?:[/?#]|$))[^@]*@")
_KEY_PAIR = re.compile(r"[^/?#@]*:[^@]*@")  # of stores that have no port there
_OBJECT_STORES = ("s3", "gs", "gcs")
_OPTIONS_OF_URL = re.compile(r"(https?://[^\s?]*)\?\S*")


def quoted(path: str) -> str:
    """Return a path, or an object's name, as the path of a URI: what has a meaning in a URI is percent-encoded."""
    return quote(path, safe=_IN_PATH, errors="surrogateescape")


def is_percent_encoded(uri: str) -> bool:
    """Return whether pyarrow decodes the path of a URI. It hands some to fsspec, which does not."""
    return not uri.startswith(("hf://", "fsspec+"))


def escaped_uri(uri: str) -> str:
    """Return a URI whose path holds only what pyarrow's parser accepts.

    Spaces, letters outside of ASCII, `#`, and a `%` that begins no code are percent-encoded. Codes stay.
    """
    if not is_percent_encoded(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    before, mark, options = rest.partition("?")
    authority, slash, path = before.partition("/")
    path = quote(_STRAY_PERCENT.sub("%25", path), safe=_IN_PATH + "%", errors="surrogateescape")
    return f"{scheme}://{authority}{slash}{path}{mark}{options}"


def public_uri(path: str) -> str:
    """Return a path or URI without what may be secret: user, password and options. A local path stays as it is.

    The user of `abfs://container@account/...` stays: it is the container.
    """
    if "://" not in path:
        return path
    scheme, _, rest = path.partition("://")
    secret = (_KEY_PAIR if scheme in _OBJECT_STORES else _PASSWORD).match(rest)
    if secret:
        rest = rest[secret.end() :]
    authority, slash, name = rest.partition("?")[0].partition("/")
    if not scheme.startswith("abfs"):
        authority = authority.rpartition("@")[2]
    return f"{scheme}://{authority}{slash}{name}"


def without_options(message: str) -> str:
    """Return a message without the options of the URLs in it. An error of Azure quotes a URL with its signature."""
    return _OPTIONS_OF_URL.sub(r"\1", message)
