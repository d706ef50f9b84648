"""TCP segments on the wire (RFC 9293, 3.1; window scale: RFC 7323, 2): parse and build."""

from __future__ import annotations

import struct
from enum import IntFlag

from slipway.machine.gateway.addresses import ETHERNET_HEADER, GUEST, MAX_FRAME
from slipway.machine.gateway.checksum import finish_checksum, sum_network_words
from slipway.machine.gateway.ethernet import IPV4_HEADER, EtherType, FrameError
from slipway.machine.gateway.ipv4 import (
    DO_NOT_FRAGMENT,
    FRAGMENT,
    HEADER_BYTES,
    TIME_TO_LIVE,
    VERSION_AND_LENGTH,
    Protocol,
)
from slipway.machine.gateway.named_tuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.gateway.ipv4 import Packet

# Numbers of sequence space are taken modulo 2**32.
SEQUENCE_MASK = 0xFFFF_FFFF

_TCP_HEADER_BYTES = 20
_TCP = struct.Struct("!HHIIBBHHH")
# Ethernet (its 14 bytes as one field), IPv4 and TCP: one call for all headers of a frame.
_HEADERS = struct.Struct("!14s BBHHHBBH4s4s HHIIBBHHH")
# The same headers without the fields that no parser reads.
_PLAIN = struct.Struct("!12xH BxH2xHxB2x4s4s HHIIBBH4x")
# Plain integers, for the same reason as those of the flags below.
_IPV4_TYPE, _TCP_PROTOCOL = int(EtherType.IPV4), int(Protocol.TCP)
# The fields of an IPv4 header that are always the same, as words; the total length is missing.
_IPV4_SUM = (VERSION_AND_LENGTH << 8) + DO_NOT_FRAGMENT + (TIME_TO_LIVE << 8) + _TCP_PROTOCOL
_END_OF_OPTIONS = 0
_NO_OPERATION = 1
_MSS = 2
_MSS_BYTES = 4
_WINDOW_SCALE = 3
_WINDOW_SCALE_BYTES = 3


class Flag(IntFlag):
    """Control bits (RFC 9293, 3.1); urgent data is taken as ordinary data, ECN is not used."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16


# Plain integers: an operation on members of an IntFlag takes longer than the rest of a segment.
FIN, SYN, RST, PSH, ACK = (int(flag) for flag in Flag)


class Flow(NamedTuple):
    """Ports and addresses of one connection of the guest; ``guest`` may be its 127.0.0.1."""

    guest_port: int
    address: bytes
    port: int
    guest: bytes = GUEST


class Segment(NamedTuple):
    """TCP segment without its ports. ``window`` is the field, not scaled.

    ``mss`` (bytes) and ``window_scale`` (bits) are None where the option is missing; a segment
    without SYN has neither.
    """

    sequence: int
    acknowledgment: int
    flags: int
    window: int
    payload: bytes | memoryview = b""
    mss: int | None = None
    window_scale: int | None = None

    @property
    def length(self) -> int:
        """Length in sequence space: payload, SYN and FIN."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)


def parse_tcp(packet: Packet) -> tuple[Flow, Segment]:
    """Return the segment of a packet whose protocol is TCP; its payload is a view of the frame.

    Raises:
        FrameError: a length is wrong, also that of an option.
    """
    data = packet.payload
    if len(data) < _TCP_HEADER_BYTES:
        raise FrameError("length of the TCP header")
    guest_port, port, sequence, acknowledgment, offset, flags, window, _, _ = _TCP.unpack_from(data)
    header_bytes = offset >> 4 << 2
    if not _TCP_HEADER_BYTES <= header_bytes <= len(data):
        raise FrameError("TCP header")
    mss = scale = None
    if flags & SYN and header_bytes > _TCP_HEADER_BYTES:
        mss, scale = _parse_options(bytes(data[_TCP_HEADER_BYTES:header_bytes]))
    return (
        Flow(guest_port, packet.destination, port, packet.source),
        Segment(sequence, acknowledgment, flags, window, data[header_bytes:], mss, scale),
    )


def parse_plain_tcp(frame: bytes) -> tuple[Flow, Segment] | None:
    """Return the segment of a frame, as ``parse_ipv4`` and ``parse_tcp`` do, in one step.

    None for a frame that needs these two: with options or padding in its headers, a SYN, of the
    guest's 127.0.0.1, malformed, or of another protocol.
    """
    if not _PLAIN.size <= len(frame) <= MAX_FRAME:
        return None
    (
        kind, version, total, fragment, protocol, source, address,
        guest_port, port, sequence, acknowledgment, offset, flags, window,
    ) = _PLAIN.unpack_from(frame)  # fmt: skip
    if (
        kind != _IPV4_TYPE
        or version != VERSION_AND_LENGTH
        or protocol != _TCP_PROTOCOL
        or source != GUEST
        or offset >> 4 << 2 != _TCP_HEADER_BYTES
        or flags & SYN
        or fragment & FRAGMENT
        or not _PLAIN.size <= total + ETHERNET_HEADER <= len(frame)
    ):
        return None
    payload = memoryview(frame)[_PLAIN.size : total + ETHERNET_HEADER]
    return (
        Flow(guest_port, address, port),
        Segment(sequence, acknowledgment, flags, window, payload),
    )


def build_tcp(
    flow: Flow, segment: Segment, checksums: bool = True
) -> list[bytes | bytearray | memoryview]:
    """Return the pieces of the frame that takes ``segment`` to the guest, for ``os.writev``.

    The payload is not copied. Without ``checksums`` that of TCP stays zero, for a device that
    vouches for its data (virtio's DATA_VALID).
    """
    sequence, acknowledgment, flags, window, payload, mss, scale = segment
    options = b"" if mss is None and scale is None else _build_options(mss, scale)
    header_bytes = _TCP_HEADER_BYTES + len(options)
    tcp_bytes = header_bytes + len(payload)
    # 2**16 is 1 modulo 65535: numbers of any multiple of 16 bits may be added as they are.
    addresses = int.from_bytes(flow.address + flow.guest, "big")
    checksum = 0
    if checksums:
        checksum = finish_checksum(
            addresses + _TCP_PROTOCOL + tcp_bytes + flow.port + flow.guest_port
            + sequence + acknowledgment + (header_bytes << 10) + flags + window
            + int.from_bytes(options, "big") + sum_network_words(payload)
        )  # fmt: skip
    total = HEADER_BYTES + tcp_bytes
    headers = _HEADERS.pack(
        *(IPV4_HEADER, VERSION_AND_LENGTH, 0, total, 0, DO_NOT_FRAGMENT, TIME_TO_LIVE),
        *(_TCP_PROTOCOL, finish_checksum(_IPV4_SUM + total + addresses)),
        *(flow.address, flow.guest, flow.port, flow.guest_port, sequence, acknowledgment),
        *(header_bytes << 2, flags, window, checksum, 0),
    )
    if options:
        headers += options
    return [headers, payload] if len(payload) else [headers]


def build_reset(segment: Segment) -> Segment | None:
    """Return the answer to a segment of an unknown connection (RFC 9293, 3.10.7.1).

    None if the segment is a reset itself.
    """
    if segment.flags & RST:
        return None
    if segment.flags & ACK:
        return Segment(segment.acknowledgment, 0, RST, 0)
    return Segment(0, segment.sequence + segment.length & SEQUENCE_MASK, RST | ACK, 0)


def _parse_options(options: bytes) -> tuple[int | None, int | None]:
    mss = scale = None
    at = 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        kind = options[at]
        if kind == _NO_OPERATION:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            raise FrameError("length of a TCP option")
        if kind == _MSS and length == _MSS_BYTES:
            mss = int.from_bytes(options[at + 2 : at + 4], "big")
        elif kind == _WINDOW_SCALE and length == _WINDOW_SCALE_BYTES:
            scale = options[at + 2]
        at += length
    return mss, scale


def _build_options(mss: int | None, scale: int | None) -> bytes:
    options = b""
    if mss is not None:
        options += bytes((_MSS, _MSS_BYTES)) + mss.to_bytes(2, "big")
    if scale is not None:
        options += bytes((_NO_OPERATION, _WINDOW_SCALE, _WINDOW_SCALE_BYTES, scale))
    return options
