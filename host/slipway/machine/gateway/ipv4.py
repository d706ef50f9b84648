"""IPv4 packets (RFC 791), ICMP echo (RFC 792) and UDP (RFC 768): parse and build.

Checksums of arriving packets are not verified: the wire is a queue in the host's memory, and a
guest that offloads checksums leaves them incomplete. Fragments are refused, since both ends know
the MTU.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from slipway.machine.gateway.addresses import ETHERNET_HEADER, GUEST, GUEST_LOOPBACK
from slipway.machine.gateway.checksum import finish_checksum, sum_words
from slipway.machine.gateway.ethernet import IPV4_HEADER, FrameError
from slipway.machine.gateway.named_tuple import NamedTuple

# Version and length of a header without options.
VERSION_AND_LENGTH = 0x45
HEADER_BYTES = 20
DO_NOT_FRAGMENT = 0x4000
# More fragments, or an offset.
FRAGMENT = 0x3FFF
# Any router would do with less; the guest is on the same wire.
TIME_TO_LIVE = 64
_HEADER = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_ICMP_ECHO_REQUEST = 8
_ICMP_PROHIBITED = b"\x03\x0d\0\0\0\0\0\0"  # unreachable, prohibited by the administrator


class Protocol(IntEnum):
    """Protocol of a packet's payload (IANA's numbers)."""

    ICMP = 1
    TCP = 6
    UDP = 17


class Packet(NamedTuple):
    """IPv4 packet of the guest; ``payload`` is a view of the frame.

    ``source`` is 127.0.0.1 for answers of a server that the gateway has reached there.
    """

    destination: bytes
    protocol: int
    payload: memoryview
    source: bytes = GUEST


class Datagram(NamedTuple):
    """UDP datagram of the guest; ``payload`` is a view of the frame."""

    source_port: int
    destination: bytes
    destination_port: int
    payload: memoryview


def parse_ipv4(frame: bytes | memoryview) -> Packet:
    """Return the packet of an Ethernet frame, without padding behind the packet.

    Raises:
        FrameError: a length is wrong, the packet is a fragment, or its source is not the guest.
    """
    if len(frame) < ETHERNET_HEADER + HEADER_BYTES:
        raise FrameError("length of the IPv4 header")
    version, _, total, _, fragment, _, protocol, _, source, destination = _HEADER.unpack_from(
        frame, ETHERNET_HEADER
    )
    header_bytes = (version & 15) << 2
    if version >> 4 != 4 or not HEADER_BYTES <= header_bytes <= total:
        raise FrameError("IPv4 header")
    if total > len(frame) - ETHERNET_HEADER:
        raise FrameError("length of the IPv4 packet")
    if fragment & FRAGMENT:
        raise FrameError("fragment")
    if source != GUEST and (source != GUEST_LOOPBACK or protocol != Protocol.TCP):
        raise FrameError("spoofed source")
    payload = memoryview(frame)[ETHERNET_HEADER + header_bytes : ETHERNET_HEADER + total]
    return Packet(destination, protocol, payload, source)


def build_ipv4(source: bytes, protocol: Protocol, payload: bytes) -> bytes:
    """Return the frame of a packet to the guest.

    The identification is 0, as packets that must not be fragmented need none (RFC 6864).
    """
    header = bytearray(
        _HEADER.pack(
            *(VERSION_AND_LENGTH, 0, HEADER_BYTES + len(payload), 0, DO_NOT_FRAGMENT),
            *(TIME_TO_LIVE, protocol, 0, source, GUEST),
        )
    )
    header[10:12] = finish_checksum(sum_words(header)).to_bytes(2, "little")
    return b"".join((IPV4_HEADER, header, payload))


def answer_echo(packet: Packet) -> bytes | None:
    """Return the frame that replies to an ICMP packet, or None for all but an echo request.

    Raises:
        FrameError: the packet is truncated.
    """
    payload = packet.payload
    if len(payload) < 8:
        raise FrameError("length of ICMP")
    if payload[0] != _ICMP_ECHO_REQUEST or payload[1] != 0:
        return None
    reply = bytes(4) + bytes(payload[4:])
    return build_ipv4(packet.destination, Protocol.ICMP, _put_icmp_checksum(reply))


def build_prohibited(packet: Packet, gateway: bytes) -> bytes:
    """Return the frame by which ``gateway`` says that ``packet`` is prohibited (RFC 1812, 5.2.7).

    The message quotes a header like that of the packet and the first 8 bytes of its payload.
    """
    quoted = _HEADER.pack(
        *(VERSION_AND_LENGTH, 0, HEADER_BYTES + len(packet.payload), 0, DO_NOT_FRAGMENT),
        *(TIME_TO_LIVE, packet.protocol, 0, GUEST, packet.destination),
    )
    message = _ICMP_PROHIBITED + quoted + bytes(packet.payload[:8])
    return build_ipv4(gateway, Protocol.ICMP, _put_icmp_checksum(message))


def parse_udp(packet: Packet) -> Datagram:
    """Return the datagram of a packet whose protocol is UDP.

    Raises:
        FrameError: a length is wrong.
    """
    if len(packet.payload) < _UDP.size:
        raise FrameError("length of the UDP header")
    source_port, destination_port, length, _ = _UDP.unpack_from(packet.payload)
    if not _UDP.size <= length <= len(packet.payload):
        raise FrameError("length of UDP")
    payload = packet.payload[_UDP.size : length]
    return Datagram(source_port, packet.destination, destination_port, payload)


def build_udp(source: bytes, source_port: int, guest_port: int, payload: bytes) -> bytes:
    """Return the frame of a datagram to the guest."""
    length = _UDP.size + len(payload)
    header = _UDP.pack(source_port, guest_port, length, 0)
    pseudo = source + GUEST + bytes((0, Protocol.UDP)) + length.to_bytes(2, "big")
    checksum = finish_checksum(sum_words(pseudo) + sum_words(header) + sum_words(payload))
    # Zero would mean that the sender made no checksum.
    header = header[:6] + (checksum or 0xFFFF).to_bytes(2, "little")
    return build_ipv4(source, Protocol.UDP, header + payload)


def _put_icmp_checksum(message: bytes) -> bytes:
    checksum = 0xFFFF - sum_words(message) % 0xFFFF
    return message[:2] + checksum.to_bytes(2, "little") + message[4:]
