"""Conversion of callers' values to declared types, and check of their bounds.

Callers may not use types. A declared type is text, bytes, a number, a path, a class of ours, a
tuple or union of those, or None; ``Annotated[int, Bounds(1, 8)]`` adds bounds. For a union such as
``bool | Tty``, a value of another type is converted to the last type. An invalid value is an
InputError that names the value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, SupportsIndex, Union, get_args, get_origin

from slipway._util.errors import InputError

# An iterator may be endless. No option takes nearly as many items.
MAX_ITEMS = 10_000
# Larger numbers are not printed: millions of digits take minutes.
_MAX_BITS = 128
_SEE = "See slipway.Options."


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a number: from ``least`` to ``most``; with ``above``, more than ``least``.

    ``unit`` is ``s``, ``bytes`` or empty for a count.
    """

    least: float
    most: float
    above: bool = False
    unit: str = ""

    def check(self, name: str, value: float) -> None:
        """Check that ``value`` is within the bounds.

        Raises:
            InputError: the value is out of bounds, or NaN.
        """
        low = value > self.least if self.above else value >= self.least
        if low and value <= self.most:
            return
        least = f"more than {self.least:.15g}" if self.above else f"at least {self.least:.15g}"
        most = f" and at most {self.most:.15g}" if math.isfinite(self.most) else ""
        raise InputError(
            f"{name} is {describe_value(value)}, and must be {least}{most}",
            f"Leave out {_find_keyword(name)} for the default.",
        )


def check_value(name: str, kind: Any, value: object) -> Any:
    """Return ``value`` converted to the declared type ``kind``, after a check of its bounds.

    Raises:
        InputError: the value is of another type, or out of bounds.
    """
    taken = convert(name, kind, value)
    check_bounds(name, kind, taken)
    return taken


def read_field_types(kind: type) -> Mapping[str, Any]:
    """Return the declared types of the fields of a dataclass, with their bounds.

    The module of the class may not postpone annotations (PEP 563): the evaluation of texts takes
    time at each start.
    """
    return kind.__annotations__


def find_plain_type(kind: Any) -> Any:
    """Return a declared type without bounds and None; of a union, the last type."""
    if get_origin(kind) is Annotated:
        return find_plain_type(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        return find_plain_type([part for part in get_args(kind) if part is not NoneType][-1])
    return kind


def find_annotations(kind: Any) -> tuple[Any, ...]:
    """Return the annotations of a declared type and of its parts, such as bounds."""
    if get_origin(kind) is Annotated:
        return (*kind.__metadata__, *find_annotations(get_args(kind)[0]))
    if get_origin(kind) in {Union, UnionType}:
        return tuple(note for part in get_args(kind) for note in find_annotations(part))
    return ()


def convert(name: str, kind: Any, value: object) -> Any:
    """Return ``value`` converted to the declared type ``kind``, without a check of bounds.

    Raises:
        InputError: the value is of another type.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return convert(name, parts[0], value)
    if origin in {Union, UnionType}:
        if value is None and NoneType in parts:
            return None
        *others, kind = (part for part in parts if part is not NoneType)
        if any(isinstance(value, other) for other in others):
            return value
        return convert(name, kind, value)
    if origin is tuple:
        return _convert_items(name, parts, value)
    return _CONVERTERS.get(kind, _make_converter(kind))(name, value)


def check_bounds(name: str, kind: Any, value: Any) -> None:
    """Check a converted ``value`` against the bounds of its declared type ``kind``.

    Raises:
        InputError: the value is out of bounds.
    """
    if value is not None:
        for note in find_annotations(kind):
            if isinstance(note, Bounds):
                note.check(name, value)


def encode_text(name: str, text: str, hint: str = "Pass bytes instead.") -> bytes:
    """Return ``text`` in UTF-8; surrogate escapes (PEP 383) become their bytes.

    Raises:
        InputError: the text has a lone surrogate that is not an escape.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} cannot be encoded as UTF-8: character {error.start} is a lone surrogate", hint
        ) from None


def describe_value(value: object) -> str:
    """Return a short description of any value, for a message."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _MAX_BITS:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return f"{value!r:.60}"
    if isinstance(value, str):
        return f"{value[:60]!r}"
    return f"of type {type(value).__name__}"


def make_input_error(name: str, value: object, wanted: str, hint: str = "") -> InputError:
    """Return the error for a value that is not as ``wanted``."""
    return InputError(f"{name} is {describe_value(value)}, and must be {wanted}", hint)


def _find_keyword(name: str) -> str:
    """Return the argument in the name of a value: ``allow`` of "allow of a network"."""
    return name.partition(" of ")[0]


def _convert_items(name: str, parts: tuple[Any, ...], value: object) -> tuple[Any, ...]:
    """Convert to ``tuple[X, ...]`` or ``tuple[X, Y]``; pairs may be a mapping."""
    endless = parts[-1] is ...
    if endless and get_origin(parts[0]) is tuple and isinstance(value, Mapping):
        return _convert_pairs(name, get_args(parts[0]), value)
    if isinstance(value, str | bytes | bytearray):
        hint = f"Write {_find_keyword(name)}=[text]." if endless else _SEE
        raise InputError(f"{name} is one text, and must be a list of texts", hint)
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        hint = f"Write {_find_keyword(name)}=[...]." if endless else _SEE
        raise make_input_error(name, value, "a list or a tuple", hint)
    items = tuple(islice(value, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise InputError(f"{name} has more than {MAX_ITEMS} items", "Use fewer items.")
    if not endless and len(items) != len(parts):
        raise InputError(f"{name} has {len(items)} items, and must have {len(parts)}", _SEE)
    kinds = parts[:1] * len(items) if endless else parts
    return tuple(
        convert(f"{name}[{at}]", kind, item)
        for at, (kind, item) in enumerate(zip(kinds, items, strict=True))
    )


def _convert_pairs(
    name: str, kinds: tuple[Any, ...], value: Mapping[Any, Any]
) -> tuple[tuple[Any, Any], ...]:
    first, second = kinds
    return tuple(
        (convert(f"a name in {name}", first, key), convert(f"{name}[{key!r:.60}]", second, item))
        for key, item in value.items()
    )


def _convert_text(name: str, value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return str(value)
    hint = "Decode it: os.fsdecode(...)." if isinstance(value, bytes | bytearray) else ""
    raise make_input_error(name, value, "a text", hint or "Pass a str.")


def _convert_bytes(name: str, value: object) -> bytes:
    if isinstance(value, str):
        return encode_text(name, value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    hint = (
        "Read the file: .read_bytes()." if isinstance(value, os.PathLike) else "Pass bytes or str."
    )
    raise make_input_error(name, value, "bytes or a text", hint)


def _convert_flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise make_input_error(name, value, "True or False", "Pass a bool.")


def _convert_integer(name: str, value: object) -> int:
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return value.__index__()
    raise make_input_error(name, value, "an integer", "Pass an int; sizes are in bytes.")


def _convert_number(name: str, value: object) -> float:
    if isinstance(value, float | SupportsIndex) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # Bounds.check reports the value
            return math.inf
    raise make_input_error(name, value, "a number", "Pass an int or a float; times are in seconds.")


def _convert_path(name: str, value: object) -> Path:
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise make_input_error(name, value, "a path", "Pass a str or a Path.")
    if not found or "\0" in found or not _is_encodable(found):
        raise InputError(
            f"{name} is {found[:60]!r}, which is not a valid path", "Pass a str or a Path."
        )
    return Path(found)


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _make_converter(kind: type) -> Any:
    def convert_instance(name: str, value: object) -> object:
        if isinstance(value, kind):
            return value
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise make_input_error(
            name, value, f"{article} {kind.__name__}", f"Pass a slipway.{kind.__name__}(...)."
        )

    return convert_instance


_CONVERTERS: Mapping[Any, Any] = {
    str: _convert_text,
    bytes: _convert_bytes,
    bool: _convert_flag,
    int: _convert_integer,
    float: _convert_number,
    Path: _convert_path,
}
