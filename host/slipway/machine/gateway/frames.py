"""Frames of the guest, each led to the part of the gateway that answers it."""

from __future__ import annotations

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.ethernet import EtherType, FrameError, answer_arp, parse_ether_type
from slipway.machine.gateway.ipv4 import (
    Protocol,
    answer_echo,
    build_prohibited,
    build_udp,
    parse_ipv4,
    parse_udp,
)
from slipway.machine.gateway.policy import NOT_ALLOWED
from slipway.machine.gateway.tcp_segment import parse_plain_tcp, parse_tcp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.gateway.connections import Connections
    from slipway.machine.gateway.ipv4 import Datagram, Packet
    from slipway.machine.gateway.link import Link
    from slipway.machine.gateway.names import NameServer
    from slipway.machine.gateway.report import Report

DNS = 53
UDP_REASON = "udp"


class FrameHandler:
    """Handles ARP, ICMP echo, and DNS over UDP, and refuses other datagrams."""

    def __init__(
        self, link: Link, connections: Connections, names: NameServer, report: Report
    ) -> None:
        self._link = link
        self._connections = connections
        self._names = names
        self._report = report
        # Frames without an answer: malformed, spoofed, of another protocol.
        self.dropped = 0

    def handle(self, frame: bytes) -> None:
        """Handle a frame of any content."""
        try:
            if arrived := parse_plain_tcp(frame):  # nearly all frames
                self._connections.handle(*arrived)
            else:
                self._handle(frame)
        except FrameError:
            self.dropped += 1

    def _handle(self, frame: bytes) -> None:
        if parse_ether_type(frame) is EtherType.ARP:
            self._send(answer_arp(frame))
            return
        packet = parse_ipv4(frame)
        if packet.protocol == Protocol.TCP:
            self._connections.handle(*parse_tcp(packet))
        elif packet.protocol == Protocol.UDP:
            self._handle_datagram(packet)
        elif packet.protocol == Protocol.ICMP and packet.destination == GATEWAY:
            self._send(answer_echo(packet))
        else:
            self.dropped += 1

    def _handle_datagram(self, packet: Packet) -> None:
        datagram = parse_udp(packet)
        if datagram.destination == GATEWAY and datagram.destination_port == DNS:
            self._answer_query(datagram)
            return
        destination = ".".join(map(str, packet.destination))
        if self._report.deny(destination, datagram.destination_port, UDP_REASON):
            self._send(build_prohibited(packet, GATEWAY))

    def _answer_query(self, datagram: Datagram) -> None:
        answer = self._names.answer(bytes(datagram.payload))
        if answer is None:
            self.dropped += 1
        elif not answer.denied or self._report.deny(answer.denied, 0, NOT_ALLOWED):
            self._send(build_udp(GATEWAY, DNS, datagram.source_port, answer.message))

    def _send(self, frame: bytes | None) -> None:
        if frame is not None:
            self._link.send((frame,))
