"""Frames on a byte stream: SLIP (RFC 1055) around a payload and its CRC-32.

A serial line may carry what is no frame (a kernel message, the tail of an earlier life), so a frame
begins and ends with END, and one whose CRC-32 or escapes are wrong is dropped and reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import sliplib

from slipway_protocol.schema import MAX_MESSAGE

END: bytes = sliplib.END
CRC_SIZE = 4
# Every byte of payload and CRC may need an escape.
MAX_ENCODED = 2 * (MAX_MESSAGE + CRC_SIZE)


@dataclass(frozen=True, slots=True)
class BadFrame:
    """``size`` bytes between two ENDs that are not a frame, and why."""

    reason: str
    size: int


def encode_frame(payload: bytes) -> bytes:
    """The frame that carries ``payload``, with an END on either side."""
    body: bytes = sliplib.encode(payload + crc32(payload).to_bytes(CRC_SIZE, "little"))
    return b"".join((END, body, END))


def decode_frame(frame: bytes) -> bytes | BadFrame:
    """The payload of what stood between two ENDs."""
    try:
        body: bytes = sliplib.decode(frame)
    except sliplib.ProtocolError:
        return BadFrame("invalid escape", len(frame))
    # Nothing and its checksum are four NULs, which an idle or restarted line sends by itself.
    if len(body) <= CRC_SIZE:
        return BadFrame("shorter than a frame may be", len(frame))
    if len(body) > MAX_MESSAGE + CRC_SIZE:
        return BadFrame("longer than a frame may be", len(frame))
    payload, checksum = body[:-CRC_SIZE], body[-CRC_SIZE:]
    if crc32(payload).to_bytes(CRC_SIZE, "little") != checksum:
        return BadFrame("wrong checksum", len(frame))
    return payload


class FrameReader:
    """Cuts a byte stream into frames; holds at most one unfinished frame of bounded length."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes | BadFrame]:
        """The payloads and bad frames that ``data`` completes, in order."""
        *ended, rest = data.split(END)
        frames: list[bytes | BadFrame] = []
        for piece in ended:
            self._hold(piece)
            if self._size > MAX_ENCODED:
                frames.append(BadFrame("longer than a frame may be", self._size))
            elif self._size:  # two ENDs in a row are the end of one frame and the start of another
                frames.append(decode_frame(b"".join(self._pieces)))
            self._pieces.clear()
            self._size = 0
        self._hold(rest)
        return frames

    def _hold(self, piece: bytes) -> None:
        if not piece:
            return
        self._size += len(piece)
        if self._size > MAX_ENCODED:
            # Too long already: count its bytes, keep none of them.
            self._pieces.clear()
        else:
            self._pieces.append(piece)
