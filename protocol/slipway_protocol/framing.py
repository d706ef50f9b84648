"""Frames on a byte stream: SLIP around a payload and its CRC-32.

A serial line may carry bytes of other origin: a kernel message, or the rest of a frame from before
a restart. Therefore a frame begins and ends with END, and a frame with a wrong CRC-32 or escape is
dropped and reported.

Source: RFC 1055 (END, ESC and the END before each packet); ISO 3309 for the CRC-32, as in zlib.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import sliplib

from slipway_protocol.schema import MAX_MESSAGE

END: bytes = sliplib.END
CRC_SIZE = 4
# Each byte of payload and CRC may need an escape.
MAX_ENCODED = 2 * (MAX_MESSAGE + CRC_SIZE)


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Bytes between two ENDs that are not a frame: ``size`` of them, and the reason."""

    reason: str
    size: int


def encode_frame(payload: bytes) -> bytes:
    """Return the frame of ``payload``, with an END on either side."""
    body: bytes = sliplib.encode(payload + crc32(payload).to_bytes(CRC_SIZE, "little"))
    return b"".join((END, body, END))


def decode_frame(frame: bytes) -> bytes | BadFrame:
    """Return the payload of ``frame``, the bytes between two ENDs."""
    try:
        body: bytes = sliplib.decode(frame)
    except sliplib.ProtocolError:
        return BadFrame("invalid escape", len(frame))
    # The checksum of an empty payload is four NULs, which an idle or restarted line may send.
    if len(body) <= CRC_SIZE:
        return BadFrame("shorter than a frame may be", len(frame))
    if len(body) > MAX_MESSAGE + CRC_SIZE:
        return BadFrame("longer than a frame may be", len(frame))
    payload, checksum = body[:-CRC_SIZE], body[-CRC_SIZE:]
    if crc32(payload).to_bytes(CRC_SIZE, "little") != checksum:
        return BadFrame("wrong checksum", len(frame))
    return payload


class FrameReader:
    """Splitter of a byte stream; holds at most one unfinished frame of bounded length."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes | BadFrame]:
        """Return the payloads and bad frames that ``data`` completes, in order."""
        *complete, rest = data.split(END)
        frames: list[bytes | BadFrame] = []
        for piece in complete:
            self._keep_piece(piece)
            if self._size > MAX_ENCODED:
                frames.append(BadFrame("longer than a frame may be", self._size))
            elif self._size:  # two ENDs in a row: end of a frame, start of the next
                frames.append(decode_frame(b"".join(self._pieces)))
            self._pieces.clear()
            self._size = 0
        self._keep_piece(rest)
        return frames

    def _keep_piece(self, piece: bytes) -> None:
        if not piece:
            return
        self._size += len(piece)
        if self._size > MAX_ENCODED:
            # Too long: the bytes are counted and dropped.
            self._pieces.clear()
        else:
            self._pieces.append(piece)
