"""Form of bytes in JSON: text, or base64."""

from __future__ import annotations

import base64

# Up to this size bytes that are UTF-8 are always text: people read it.
MAX_ALWAYS_TEXT = 4096
# Control characters that take six bytes in JSON (RFC 8259, section 7); the others take two.
_LONG_ESCAPES = bytes(set(range(0x20)) - set(b"\b\t\n\f\r"))
# Base64 takes 1/3 more, each of these characters five bytes more.
_MOST_ESCAPED = 1 / 15


def encode_data(data: bytes) -> dict[str, str]:
    """Return ``data`` as ``text`` if it is UTF-8, else as ``base64`` (RFC 4648, section 4).

    Long data with so many control characters that base64 is shorter is base64, too: 256 MiB of NULs
    would be 1.5 GiB of text.
    """
    if not _needs_escapes(data):
        try:
            return {"text": data.decode("utf-8")}
        except UnicodeDecodeError:
            pass
    return {"base64": base64.b64encode(data).decode("ascii")}


def _needs_escapes(data: bytes) -> bool:
    size = len(data)
    if size <= MAX_ALWAYS_TEXT:
        return False
    return size - len(data.translate(None, _LONG_ESCAPES)) > size * _MOST_ESCAPED
