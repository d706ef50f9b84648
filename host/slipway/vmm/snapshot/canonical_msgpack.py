"""Encoding of a snapshot's state: the needed part of msgpack, with one form for each value.

Values are None, booleans, integers from 0 to 2**64-1, bytes, text, lists, and maps with keys of
text. The package msgpack is not used: a VMM imports before its confinement, and starts once for
each VM. Decoded bytes may come from a VMM that a guest controls.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Deeper than any state; untrusted input must not decide on the depth of a recursion.
MAX_DEPTH = 8

_NIL, _FALSE, _TRUE = 0xC0, 0xC2, 0xC3
_FIXED_MAP, _FIXED_LIST, _FIXED_TEXT = 0x80, 0x90, 0xA0
# Codes for a length, or a number, of 1, 2, 4 and 8 bytes; 0 if the kind lacks this width.
_NUMBERS = (0xCC, 0xCD, 0xCE, 0xCF)
_BYTES = (0xC4, 0xC5, 0xC6, 0)
_TEXTS = (0xD9, 0xDA, 0xDB, 0)
_LISTS = (0, 0xDC, 0xDD, 0)
_MAPS = (0, 0xDE, 0xDF, 0)
_SIZED = {
    code: (kinds, 1 << power)
    for kinds in (_NUMBERS, _BYTES, _TEXTS, _LISTS, _MAPS)
    for power, code in enumerate(kinds)
    if code
}


def pack(value: Any) -> bytes:
    """Return the bytes of ``value``.

    Raises:
        TypeError: a value is of another type.
        ValueError: an integer or length is out of range.
    """
    parts: list[bytes] = []
    _pack(value, parts.append)
    return b"".join(parts)


def _pack(value: Any, put: Any) -> None:
    if value is None:
        put(bytes((_NIL,)))
    elif type(value) is bool:
        put(bytes((_TRUE if value else _FALSE,)))
    elif isinstance(value, int):
        put(bytes((value,)) if 0 <= value < _FIXED_MAP else _encode_size(_NUMBERS, int(value)))
    elif isinstance(value, str):
        data = value.encode()
        size = len(data)
        put((bytes((_FIXED_TEXT | size,)) if size < 0x20 else _encode_size(_TEXTS, size)) + data)
    elif isinstance(value, bytes | bytearray):
        put(_encode_size(_BYTES, len(value)))
        put(bytes(value))
    elif isinstance(value, list | tuple):
        size = len(value)
        put(bytes((_FIXED_LIST | size,)) if size < 0x10 else _encode_size(_LISTS, size))
        for item in value:
            _pack(item, put)
    elif isinstance(value, dict):
        size = len(value)
        put(bytes((_FIXED_MAP | size,)) if size < 0x10 else _encode_size(_MAPS, size))
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError("a key that is not text")
            _pack(name, put)
            _pack(item, put)
    else:
        raise TypeError(f"{type(value).__name__} cannot be packed")


def _encode_size(codes: tuple[int, ...], number: int) -> bytes:
    """Return the shortest form of a number or length."""
    for power, code in enumerate(codes):
        if code and 0 <= number < 1 << (8 << power):
            return bytes((code,)) + number.to_bytes(1 << power, "big")
    raise ValueError(f"{number} cannot be packed")


def unpack(data: bytes) -> Any:
    """Return the value of ``data``, which must be in the form of :func:`pack`.

    Raises:
        ValueError: ``data`` is in another form. No content raises another exception.
    """
    value, end = _unpack(data, 0, MAX_DEPTH)
    # One form for each value: two readers cannot decode the same bytes differently.
    if end != len(data) or pack(value) != data:
        raise ValueError("the form is not canonical")
    return value


def _unpack(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Return a value and its end."""
    if at >= len(data):
        raise ValueError("the data ends too early")
    code = data[at]
    at += 1
    if code < _FIXED_MAP:
        return code, at
    if code < _NIL:
        if code < _FIXED_TEXT:
            kinds = _MAPS if code < _FIXED_LIST else _LISTS
            return _read_items(kinds, data, at, code & 0x0F, depth)
        return _read_run(_TEXTS, data, at, code & 0x1F), at + (code & 0x1F)
    if code in (_NIL, _FALSE, _TRUE):
        return {_NIL: None, _FALSE: False, _TRUE: True}[code], at
    if code not in _SIZED:
        raise ValueError(f"unknown code {code:#x}")
    kinds, width = _SIZED[code]
    number = int.from_bytes(_read_run(_BYTES, data, at, width), "big")
    at += width
    if kinds is _NUMBERS:
        return number, at
    if kinds in (_BYTES, _TEXTS):
        return _read_run(kinds, data, at, number), at + number
    return _read_items(kinds, data, at, number, depth)


def _read_run(kinds: tuple[int, ...], data: bytes, at: int, size: int) -> Any:
    run = data[at : at + size]
    if len(run) != size:
        raise ValueError("the data ends too early")
    return run.decode() if kinds is _TEXTS else run


def _read_items(
    kinds: tuple[int, ...], data: bytes, at: int, count: int, depth: int
) -> tuple[Any, int]:
    if not depth:
        raise ValueError("the nesting is too deep")
    items: list[Any] = []
    # Each item takes at least a byte: a wrong count ends with the data.
    for _ in range(count * 2 if kinds is _MAPS else count):
        item, at = _unpack(data, at, depth - 1)
        items.append(item)
    if kinds is _LISTS:
        return items, at
    names = items[::2]
    if not all(type(name) is str for name in names):
        raise ValueError("a key that is not text")
    return dict(zip(names, items[1::2], strict=True)), at
