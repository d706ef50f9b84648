"""Key of a run: a caller's name for a share of the queue."""

from __future__ import annotations

from slipway._model.bounds import MAX_KEY
from slipway._model.values import convert
from slipway._util.errors import InputError


def check_key(key: object, name: str = "key") -> str:
    """Return ``key``, which must fit into a header field of HTTP (RFC 9110, section 5.5).

    Raises:
        InputError: it is too long, or has other characters than printable ASCII.
    """
    text: str = convert(name, str, key)
    if len(text) > MAX_KEY or not text.isascii() or not text.isprintable() or text != text.strip():
        raise InputError(
            f"invalid {name} {text[:60]!r} of {len(text)} characters",
            f"Use up to {MAX_KEY} printable ASCII characters, without a space at either end.",
        )
    return text
