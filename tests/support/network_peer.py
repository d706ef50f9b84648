"""Gateway of one guest, played by a test: a thread at the host's end of a link.

It answers what needs no state: DNS questions by a table, echo requests, and each opening of a TCP
connection by a reset. All frames that it got are in ``frames``.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

from slipway.machine.gateway import addresses

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

# Ethernet types, and protocols of IP.
IPV4, ARP = 0x0800, 0x0806
ICMP, TCP, UDP = 1, 6, 17
_HEADERS = addresses.GUEST_MAC + addresses.GATEWAY_MAC + b"\x08\x00"
_RST_ACK = 0x14
_NAME_ERROR = 3


def add_up(data: bytes) -> int:
    """Return the Internet checksum of ``data`` (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def build_frame(protocol: int, source: bytes, payload: bytes, target: bytes = b"") -> bytes:
    """Return a frame to the guest, from the address ``source``."""
    target = target or addresses.GUEST
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol)
    total = add_up(head + bytes(2) + source + target)
    return _HEADERS + head + struct.pack("!H", total) + source + target + payload


def add_pseudo_sum(protocol: int, source: bytes, payload: bytes, place: int) -> bytes:
    """Return the TCP segment or UDP datagram ``payload`` with its checksum at ``place``."""
    pseudo = source + addresses.GUEST + struct.pack("!HH", protocol, len(payload))
    return payload[:place] + struct.pack("!H", add_up(pseudo + payload)) + payload[place + 2 :]


class NetworkPeer:
    """Thread that answers frames until the link's other end is closed, or :meth:`close`."""

    def __init__(self, names: Mapping[str, bytes] | None = None) -> None:
        self._names = names or {}
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.frames: list[bytes] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._ours.close()
        self.theirs.close()

    def count(self, kind: int) -> int:
        """Return the number of frames with this Ethernet type."""
        return sum(frame[12:14] == struct.pack("!H", kind) for frame in self.frames)

    def _serve(self) -> None:
        while select.select([self._ours], [], []):
            try:
                frame = self._ours.recv(addresses.MAX_FRAME)
            except OSError:
                return
            if not frame:
                return
            self.frames.append(frame)
            answer = self._answer(frame)
            if answer:
                self._ours.send(answer)

    def _answer(self, frame: bytes) -> bytes:
        if frame[12:14] != b"\x08\x00":
            return b""
        packet = frame[14:]
        payload, protocol, asked = packet[20:], packet[9], packet[16:20]
        if protocol == UDP:
            return self._answer_question(payload)
        if protocol == ICMP:
            answer = b"\0\0\0\0" + payload[4:]
            answer = answer[:2] + struct.pack("!H", add_up(answer)) + answer[4:]
            return build_frame(ICMP, asked, answer)
        source, destination, sequence = struct.unpack_from("!HHI", payload)
        segment = struct.pack(
            "!HHIIHHHH", destination, source, 0, sequence + 1, 0x5000 | _RST_ACK, 0, 0, 0
        )
        return build_frame(TCP, asked, add_pseudo_sum(TCP, asked, segment, 16))

    def _answer_question(self, payload: bytes) -> bytes:
        port, destination = struct.unpack_from("!HH", payload)
        question = payload[20:]
        labels, place = [], 0
        while question[place]:
            labels.append(question[place + 1 : place + 1 + question[place]].decode())
            place += 1 + question[place]
        question = question[: place + 5]
        address = self._names.get(".".join(labels))
        is_address = address is not None and question[place + 1 : place + 3] == b"\0\1"
        flags = 0x8180 | (_NAME_ERROR if address is None else 0)
        answer = payload[8:10] + struct.pack("!HHHHH", flags, 1, int(is_address), 0, 0) + question
        if is_address and address is not None:
            answer += struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + address
        datagram = struct.pack("!HHHH", destination, port, 8 + len(answer), 0) + answer
        datagram = add_pseudo_sum(UDP, addresses.GATEWAY, datagram, 6)
        return build_frame(UDP, addresses.GATEWAY, datagram)
