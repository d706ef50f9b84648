"""Packed messages: the payload of another message as a zlib stream.

Source: RFC 1950, as in zlib.
"""

from __future__ import annotations

import zlib

from slipway_protocol import messages as m
from slipway_protocol.codec import decode, encode
from slipway_protocol.errors import ProtocolError
from slipway_protocol.schema import HOST_TO_AGENT, MAX_DATA, MAX_MESSAGE

# Capability in Ready of an agent that understands Packed.
PACKED = "packed"
# A stream has 6 bytes around it, and Packed a few more: shorter payloads gain nothing.
MIN_PAYLOAD = 64


def pack(payload: bytes) -> bytes:
    """Return the payload of a Packed with ``payload`` inside, or ``payload`` if that is shorter."""
    if len(payload) < MIN_PAYLOAD:
        return payload
    data = zlib.compress(payload)
    packed = encode(m.Packed(data)) if len(data) <= MAX_DATA else payload
    return min(payload, packed, key=len)


def unpack(packed: m.Packed) -> m.Message:
    """Return the message inside ``packed``, with the same checks as for one that came by itself.

    Raises:
        ProtocolError: the data are not one whole stream; or its payload is longer than a message
            may be, is no message of the host's, or is Packed itself.
    """
    inflation = zlib.decompressobj()
    try:
        # One byte more than allowed: else the end of a longest payload would not be seen.
        payload = inflation.decompress(packed.data, MAX_MESSAGE + 1)
    except zlib.error:
        raise ProtocolError("Packed: the data are not a zlib stream") from None
    if len(payload) > MAX_MESSAGE:
        raise ProtocolError(f"Packed: a message has at most {MAX_MESSAGE} bytes")
    if not inflation.eof or inflation.unused_data:
        raise ProtocolError("Packed: the data are not one whole stream")
    message = decode(payload, HOST_TO_AGENT)
    if isinstance(message, m.Packed):
        raise ProtocolError("Packed: a packed message is inside")
    return message
