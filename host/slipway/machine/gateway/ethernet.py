"""Ethernet frames and ARP (RFC 826) between guest and gateway: parse and build."""

from __future__ import annotations

import struct
from enum import IntEnum

from slipway.machine.gateway.addresses import (
    ETHERNET_HEADER,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    MAX_FRAME,
)

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST = 1
_ARP_REPLY = 2
_HARDWARE_ETHERNET = 1
_UNKNOWN_ADDRESS = bytes(4)


class FrameError(Exception):
    """Frame of the guest that is malformed, or not meant for the gateway; drop it.

    The only error that the parsers of this package raise.
    """


class EtherType(IntEnum):
    """Protocol of a frame's payload (IEEE 802 numbers)."""

    IPV4 = 0x0800
    ARP = 0x0806


# The header of every frame to the guest. Both ends have fixed addresses, so that nothing of it
# depends on what a guest sends.
IPV4_HEADER = GUEST_MAC + GATEWAY_MAC + EtherType.IPV4.to_bytes(2, "big")
_ARP_HEADER = GUEST_MAC + GATEWAY_MAC + EtherType.ARP.to_bytes(2, "big")


def parse_ether_type(frame: bytes | memoryview) -> EtherType:
    """Return the protocol of a frame's payload, which begins at ``ETHERNET_HEADER``.

    Raises:
        FrameError: the frame is too short or too long, or has another protocol.
    """
    if not ETHERNET_HEADER <= len(frame) <= MAX_FRAME:
        raise FrameError("length of the frame")
    if frame[12] == 0x08:
        if frame[13] == 0x00:
            return EtherType.IPV4
        if frame[13] == 0x06:
            return EtherType.ARP
    raise FrameError("protocol of the frame")


def answer_arp(frame: bytes | memoryview) -> bytes | None:
    """Return the reply to an ARP frame, or None if the frame wants none.

    All addresses but the guest's own are the gateway's: the guest's probe of its own address
    (RFC 5227) and its announcements stay unanswered.

    Raises:
        FrameError: the frame is truncated, not about IPv4 over Ethernet, or of a spoofed address.
    """
    if len(frame) < ETHERNET_HEADER + _ARP.size:
        raise FrameError("length of ARP")
    hardware, protocol, hardware_bytes, protocol_bytes, operation, mac, sender, _, target = (
        _ARP.unpack_from(frame, ETHERNET_HEADER)
    )
    if (hardware, protocol) != (_HARDWARE_ETHERNET, EtherType.IPV4) or (
        hardware_bytes,
        protocol_bytes,
    ) != (6, 4):
        raise FrameError("kind of ARP")
    if mac != GUEST_MAC or sender not in (GUEST, _UNKNOWN_ADDRESS):
        raise FrameError("spoofed sender of ARP")
    if operation != _ARP_REQUEST or target == GUEST:
        return None
    return _ARP_HEADER + _ARP.pack(
        *(_HARDWARE_ETHERNET, EtherType.IPV4, 6, 4, _ARP_REPLY),
        *(GATEWAY_MAC, target, GUEST_MAC, sender),
    )
