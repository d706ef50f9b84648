"""Long JSON in pieces: no piece keeps the event loop busy, and a slow reader holds up the next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# Characters of a text in one piece. Each takes at most 12 bytes, escaped.
TEXT_PIECE = 64 * 1024


def iterate_json(value: Any) -> Iterator[bytes]:
    """Yield compact JSON (ASCII) of ``value``, whose objects have texts as keys."""
    match value:
        case dict():
            opening = b"{"
            for name, item in value.items():
                yield opening + _encode(name) + b":"
                yield from iterate_json(item)
                opening = b","
            yield b"{}" if not value else b"}"
        case list() | tuple():
            opening = b"["
            for item in value:
                yield opening
                yield from iterate_json(item)
                opening = b","
            yield b"[]" if not value else b"]"
        case str() if len(value) > TEXT_PIECE:
            yield b'"'
            for start in range(0, len(value), TEXT_PIECE):
                yield _encode(value[start : start + TEXT_PIECE])[1:-1]
            yield b'"'
        case _:
            yield _encode(value)


def join_pieces(pieces: Iterator[bytes], size: int = TEXT_PIECE) -> Iterator[bytes]:
    """Yield ``pieces`` joined to pieces of at least ``size`` bytes; the last may be shorter."""
    joined = bytearray()
    for piece in pieces:
        joined += piece
        if len(joined) >= size:
            yield bytes(joined)
            joined.clear()
    if joined:
        yield bytes(joined)


def _encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
