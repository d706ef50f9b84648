"""Checked fields of a JSON object from a socket."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

from slipway._util.errors import InputError
from slipway._util.text import to_plain_line
from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bytes of a line with its end. Each byte of 120 KiB of output can take six in JSON.
MAX_LINE = MIB
# JavaScript's limit is 2^53 - 1; our numbers are far below.
MAX_INTEGER = 2**63 - 1


class Fields:
    """Fields of an object; unknown fields are ignored, for newer peers.

    Each method raises InputError with a sentence that names the field by ``where``.
    """

    def __init__(self, record: object, where: str) -> None:
        if not isinstance(record, dict):
            raise InputError(f"{where} is not a JSON object")
        self._record: dict[str, Any] = record
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._record.get(name) is not None

    def read_text(self, name: str) -> str:
        """Return a string, unchanged."""
        value = self._record.get(name)
        if not isinstance(value, str):
            raise self._make_error(name, "a string")
        return value

    def read_plain_text(self, name: str) -> str:
        """Return a string without control characters, for a terminal; "" if missing."""
        return to_plain_line(self.read_text(name)) if name in self else ""

    def read_integer(self, name: str, most: int = MAX_INTEGER) -> int:
        """Return an integer from 0 to ``most``; true, an int in Python, is an error."""
        value = self._record.get(name)
        if type(value) is not int or not 0 <= value <= most:
            raise self._make_error(name, f"an integer from 0 to {most}")
        return value

    def read_number(self, name: str) -> float:
        """Return a finite number, at least 0."""
        value = self._record.get(name)
        if type(value) is int and 0 <= value <= MAX_INTEGER:
            return float(value)
        if type(value) is float and math.isfinite(value) and value >= 0:
            return value
        raise self._make_error(name, "a number of at least 0")

    def read_flag(self, name: str) -> bool:
        """Return True or False."""
        value = self._record.get(name)
        if not isinstance(value, bool):
            raise self._make_error(name, "true or false")
        return value

    def read_choice(self, name: str, choices: tuple[str, ...]) -> str:
        """Return one of ``choices``."""
        value = self._record.get(name)
        if value not in choices:
            raise self._make_error(name, f"one of {', '.join(choices)}")
        return str(value)

    def read_fields(self, name: str) -> Fields:
        """Return an object."""
        return Fields(self._record.get(name), f"{self._where}.{name}")

    def read_items(self, name: str, most: int) -> list[Any]:
        """Return a list of at most ``most`` values."""
        value = self._record.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self._make_error(name, f"a list of at most {most}")
        return value

    def read_texts(self, name: str, most: int) -> tuple[str, ...]:
        """Return a list of at most ``most`` strings."""
        value = self.read_items(name, most)
        if not all(isinstance(text, str) for text in value):
            raise self._make_error(name, "a list of strings")
        return tuple(value)

    def read_plain_texts(self, name: str, most: int) -> dict[str, str]:
        """Return an object of at most ``most`` strings without control characters."""
        value = self._record.get(name)
        if not isinstance(value, dict) or len(value) > most:
            raise self._make_error(name, f"an object of at most {most}")
        fields = Fields(value, f"{self._where}.{name}")
        return {key: fields.read_plain_text(key) for key in value}

    def read_data(self) -> bytes:
        """Return the bytes in ``text`` or ``base64``; exactly one of these fields must exist."""
        text = self.read_text("text") if "text" in self else None
        encoded = self.read_text("base64") if "base64" in self else None
        return decode_text_or_base64(text, encoded, self._where)

    def _make_error(self, name: str, what: str) -> InputError:
        value = self._record.get(name)
        found = f"is {value!r:.60}" if name in self._record else "is missing"
        return InputError(f"{self._where}.{name} {found}, and must be {what}")


def encode_line(record: Mapping[str, Any]) -> bytes:
    """Return ``record`` as one line, with its end."""
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


def decode_data(record: object) -> bytes:
    """Return the bytes in ``record``; other fields are ignored.

    Raises:
        InputError: the record has no bytes, or invalid ones.
    """
    return Fields(record, "data").read_data()


def decode_text_or_base64(text: str | None, encoded: str | None, where: str) -> bytes:
    """Return the bytes that are given as text, or else as base64 (RFC 4648, section 4).

    Raises:
        InputError: both or neither is given, or one is invalid. ``where`` names the field.
    """
    if (text is None) == (encoded is None):
        raise InputError(
            f"{where} needs text or base64, and not both",
            "Give text, or base64 for bytes that are not UTF-8.",
        )
    try:
        if text is not None:
            return text.encode("utf-8")
        return base64.b64decode(encoded or "", validate=True)
    except UnicodeEncodeError:
        raise InputError(f"{where} has text with a lone surrogate", "Send Unicode.") from None
    except ValueError:
        raise InputError(f"{where} has invalid base64", "See RFC 4648, section 4.") from None


def decode_line(line: bytes) -> dict[str, Any]:
    """Return the object in one line of JSON (RFC 8259).

    Raises:
        InputError: the line is too long, or is not a JSON object.
    """
    if len(line) > MAX_LINE:
        raise InputError(f"a line of JSON has more than {MAX_LINE} bytes")
    try:
        record = json.loads(
            line.decode("utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_build_object,
        )
    except (ValueError, RecursionError):
        raise InputError(f"{line[:60]!r} is not a line of JSON") from None
    if not isinstance(record, dict):
        raise InputError(f"{line[:60]!r} is not a JSON object")
    return record


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers of JSON differ in which of two equal names counts; RFC 8259, section 4.
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a name is twice")
    return record


def _refuse_constant(name: str) -> None:
    # Python accepts NaN and Infinity, which are not in RFC 8259.
    raise ValueError(name)
