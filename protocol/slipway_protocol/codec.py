"""Encoding of messages as msgpack, and checked decoding.

Source: the msgpack specification (spec.md), formats nil, bool, int, str, bin and array.
"""

from __future__ import annotations

import msgpack

from slipway_protocol.errors import ProtocolError
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT, MAX_ITEMS, MAX_MESSAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from slipway_protocol.messages import Message
    from slipway_protocol.schema import Table

_IDS = {
    kind: number for table in (HOST_TO_AGENT, AGENT_TO_HOST) for number, (kind, _) in table.items()
}


def _list_fields(value: Any) -> list[Any]:
    """Return the fields of a message or nested record, in wire order."""
    return [getattr(value, name) for name in value.__slots__]


def encode(message: Message) -> bytes:
    """Return ``message`` as a msgpack array: id, then fields.

    Raises:
        ProtocolError: the array has more than ``MAX_MESSAGE`` bytes, or a field has a type or
            value without a msgpack format.
    """
    try:
        # surrogateescape: arguments and paths of Linux are bytes that need not be UTF-8.
        payload = msgpack.packb(
            [_IDS[type(message)], *_list_fields(message)],
            default=_list_fields,
            unicode_errors="surrogateescape",
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"{type(message).__name__} cannot be encoded: {error}") from None
    if len(payload) > MAX_MESSAGE:
        name = type(message).__name__
        raise ProtocolError(f"{name} has {len(payload)} bytes; at most {MAX_MESSAGE} are allowed")
    return bytes(payload)


def decode(payload: bytes, table: Table) -> Message:
    """Return the message in ``payload``, checked against ``table``.

    Raises:
        ProtocolError: the payload is not msgpack, its id is not in ``table``, or a field is
            missing or out of bounds. No payload raises another exception.
    """
    try:
        # An array's header can announce far more items than bytes follow, and the decoder allocates
        # for each level of nesting by its header. Therefore items are bounded as well as bytes.
        values = msgpack.unpackb(
            payload,
            use_list=False,
            unicode_errors="surrogateescape",
            max_array_len=MAX_ITEMS,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(
            f"not msgpack within bounds: {str(error) or type(error).__name__:.80}"
        ) from None
    if type(values) is not tuple or not values or type(values[0]) is not int:
        raise ProtocolError("a message is a list that begins with its id")
    entry = table.get(values[0])
    if entry is None:
        raise ProtocolError(f"unknown message id {values[0]}")
    kind, checks = entry
    if len(values) <= len(checks):
        raise ProtocolError(f"{kind.__name__} has {len(values) - 1} of {len(checks)} fields")
    try:
        # Fields behind the known ones come from a newer peer and are ignored.
        message: Message = kind(*[c(v) for c, v in zip(checks, values[1:], strict=False)])
    except ProtocolError as error:
        raise ProtocolError(f"{kind.__name__}: {error.message}") from None
    return message
