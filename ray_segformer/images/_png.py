"""PNG files without their text and colour profiles, which Pillow reads first, and refuses if they are large."""

from __future__ import annotations

import struct
import zlib

MAGIC = b"\x89PNG\r\n\x1a\n"

_TEXT, _COMPRESSED_TEXT, _UNICODE_TEXT, _PROFILE = b"tEXt", b"zTXt", b"iTXt", b"iCCP"

# The texts in which Pillow looks for the orientation. They are kept.
_ORIENTATION_KEYS = frozenset((b"XML:com.adobe.xmp", b"xmp", b"exif", b"Raw profile type exif"))

# The most bytes that the kept texts of a file are decompressed to.
_MOST_BYTES = 16 * 2**20


def without_text(content: bytes) -> bytes:
    """Return a PNG file without its text and its colour profile, which change no pixel here.

    Pillow refuses a file if a text or a profile has more than 1 MiB, or all texts more than 64 MiB
    (`PngImagePlugin.MAX_TEXT_CHUNK` and `MAX_TEXT_MEMORY`, which are global to the process). What is dropped is not
    decompressed. Texts that may hold the orientation are kept, and stored without compression.

    Args:
        content: a file that starts with `MAGIC`. Chunks after a damaged one stay as they are.
    """
    pieces: list[bytes] = []
    start = position = len(MAGIC)
    left = _MOST_BYTES
    while position + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content) or name == b"IEND":
            break
        if name in (_TEXT, _COMPRESSED_TEXT, _UNICODE_TEXT, _PROFILE):
            data = content[position + 8 : end - 4]
            pieces.append(content[start:position])
            start = end
            if name != _PROFILE and data.split(b"\0", 1)[0] in _ORIENTATION_KEYS:
                plain = _decompressed(name, data, left)
                left -= 0 if plain is None else len(plain)
                pieces.append(content[position:end] if plain is None else plain)
        position = end
    return b"".join([MAGIC, *pieces, content[start:]]) if pieces else content


def _decompressed(name: bytes, data: bytes, most_bytes: int) -> bytes | None:
    """Return the chunk of a compressed text without compression; None if it has none, is damaged or is too large."""
    key, _, rest = data.partition(b"\0")
    if name == _COMPRESSED_TEXT and rest[:1] == b"\0":
        head, packed, name = key + b"\0", rest[1:], _TEXT
    elif name == _UNICODE_TEXT and rest[:2] == b"\1\0" and rest.count(b"\0", 2) >= 2:
        language, translated, packed = rest[2:].split(b"\0", 2)
        head = key + b"\0\0\0" + language + b"\0" + translated + b"\0"
    else:
        return None
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(packed, max(most_bytes, 1))
    except zlib.error:
        return None
    if decompressor.unconsumed_tail:
        return None
    text = head + text
    return struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(text, zlib.crc32(name)))
