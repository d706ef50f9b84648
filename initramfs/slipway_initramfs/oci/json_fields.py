"""Fields of untrusted JSON documents, with checked types and limits.

Each function raises ImageError; ``where`` is the beginning of its message.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from slipway_initramfs.errors import ImageError
from slipway_initramfs.oci.repository import MAX_DOCUMENT

# Limit on a string of a document, in characters.
MAX_TEXT = 32 << 10
# Limit on the size of a blob in a descriptor, in bytes.
MAX_BLOB = 1 << 40

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_OTHER_DIGEST = re.compile("[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Return the object in a JSON document; ``what`` is the document's name."""
    fields = parse_document(data, what)
    if not isinstance(fields, dict):
        raise ImageError(f"{what} is not a JSON object")
    return fields


def parse_document(data: bytes, what: str) -> Any:
    """Return the value in a JSON document; ``what`` is the document's name."""
    if len(data) > MAX_DOCUMENT:
        raise ImageError(f"{what} has more than {MAX_DOCUMENT >> 20} MiB")
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ImageError(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise ImageError(f"{what} is not JSON: {str(error)[:80]}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def get_object(fields: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return an object field, or an empty object if it is missing."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ImageError(f"{where} has a {name} that is not an object")
    return value


def get_array(fields: dict[str, Any], name: str, most: int, where: str) -> list[Any]:
    """Return a list field of at most ``most`` values, or an empty list if it is missing."""
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageError(f"{where} has {name} that are not a list")
    if len(value) > most:
        raise ImageError(f"{where} has {len(value)} {name}; at most {most} are allowed")
    return value


def get_text(fields: dict[str, Any], name: str, where: str) -> str:
    """Return a text field, or an empty string if it is missing."""
    value = fields.get(name)
    return "" if value is None else check_text(value, name, where)


def check_text(value: object, name: str, where: str) -> str:
    """Return ``value`` of the field ``name``, if it is text without NUL and not too long."""
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise ImageError(f"{where} has an invalid {name}: {show_value(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ImageError(f"{where} has a {name} that is not text: {show_value(value)}") from error
    return value


def show_value(value: object) -> str:
    """Return a short, harmless form of an untrusted value."""
    if isinstance(value, str):
        return repr(value[:80])
    if value is None:
        return "missing"
    if isinstance(value, int) and not -MAX_BLOB * 2 < value < MAX_BLOB * 2:
        return "of too many digits"
    if isinstance(value, int | float):
        return repr(value)
    return f"of the type {type(value).__name__}"


def check_digest(value: object, where: str) -> str:
    """Return ``value`` if it is a SHA-256 digest."""
    if isinstance(value, str):
        if _DIGEST.fullmatch(value):
            return value
        if _OTHER_DIGEST.fullmatch(value) and not value.startswith("sha256:"):
            name = value.partition(":")[0]
            raise ImageError(f"{where} has a digest by {name[:40]!r}; only sha256 is supported")
    raise ImageError(f"{where} has the invalid digest {show_value(value)}")
