"""Frames between guest and gateway: each is parsed as it was built, and nothing else is let in."""

from __future__ import annotations

import os
import struct

import pytest

from slipway.machine.gateway.addresses import GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, MAX_FRAME
from slipway.machine.gateway.checksum import sum_words
from slipway.machine.gateway.ethernet import (
    EtherType,
    FrameError,
    answer_arp,
    parse_ether_type,
)
from slipway.machine.gateway.ipv4 import (
    Packet,
    Protocol,
    answer_echo,
    build_prohibited,
    build_udp,
    parse_ipv4,
    parse_udp,
)
from slipway.machine.gateway.tcp_segment import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    Flow,
    Segment,
    build_reset,
    build_tcp,
    parse_plain_tcp,
    parse_tcp,
)
from support.tcp_wire import FLOW, turn_frame


def add_words(data: bytes) -> int:
    """The one's complement sum as RFC 1071 writes it, word for word."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def make_packet(protocol: int, payload: bytes, source: bytes = GUEST) -> bytes:
    """A frame as a guest sends it, without checksums."""
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, source, GATEWAY
    )
    return GATEWAY_MAC + GUEST_MAC + b"\x08\x00" + header + payload


def make_arp(operation: int, sender: bytes, target: bytes, mac: bytes = GUEST_MAC) -> bytes:
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, operation, mac, sender, bytes(6), target)
    return b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + body


@pytest.mark.parametrize(
    "size", [1, 2, 511, 512, 513, 514, 8191, 8192, 8193, 16384, 65479, 65480, 65534]
)
def test_folded_sum_is_that_of_the_rfc(size: int) -> None:
    data = os.urandom(size)

    swapped = sum_words(data) % 0xFFFF

    assert int.from_bytes(swapped.to_bytes(2, "little"), "big") == add_words(data) % 0xFFFF


@pytest.mark.parametrize("data", [bytes(9000), b"\xff" * 9000, b"\xff\xff", bytes(2)])
def test_folded_sum_of_constant_data_is_a_multiple_of_65535(data: bytes) -> None:
    assert sum_words(data) % 0xFFFF == 0


@pytest.mark.parametrize("size", [0, 1, 2, 1000, 65479, 65480])
def test_tcp_frame_is_parsed_as_it_was_built(size: int) -> None:
    segment = Segment(0xFFFF_FFFF, 7, PSH | ACK, 500, os.urandom(size))

    frame = b"".join(build_tcp(FLOW, segment))
    flow, parsed = parse_tcp(parse_ipv4(turn_frame(frame)))

    assert (flow, parsed._replace(payload=bytes(parsed.payload))) == (FLOW, segment)
    assert len(frame) == 54 + size <= MAX_FRAME
    assert add_words(frame[14:34]) == 0xFFFF
    pseudo = frame[26:34] + struct.pack("!HH", Protocol.TCP, len(frame) - 34)
    assert add_words(pseudo + frame[34:]) == 0xFFFF


def test_tcp_frame_without_checksums_has_that_of_ip_only() -> None:
    frame = b"".join(build_tcp(FLOW, Segment(1, 2, ACK, 3, b"data"), checksums=False))

    assert frame[50:52] == bytes(2)
    assert add_words(frame[14:34]) == 0xFFFF


def test_options_of_a_syn_are_parsed_as_they_were_built() -> None:
    segment = Segment(1, 0, SYN, 65535, b"", mss=65480, window_scale=5)

    _, parsed = parse_tcp(parse_ipv4(turn_frame(b"".join(build_tcp(FLOW, segment)))))

    assert (parsed.mss, parsed.window_scale, bytes(parsed.payload)) == (65480, 5, b"")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (bytes.fromhex("0204ffc8 0402 080a0000000000000000 01 030307"), (65480, 7)),
        (bytes.fromhex("01010101 00 ffffff"), (None, None)),
        # An option of a wrong size has no meaning, but the next one has.
        (bytes.fromhex("0203ff 030307 0000"), (None, 7)),
        # Unknown options are passed over.
        (bytes.fromhex("fd04aaaa 02040200"), (512, None)),
    ],
)
def test_options_are_read_in_any_order(options: bytes, expected: tuple[int, int]) -> None:
    header = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, (20 + len(options)) << 2, SYN, 5, 0, 0)

    _, segment = parse_tcp(parse_ipv4(make_packet(Protocol.TCP, header + options)))

    assert (segment.mss, segment.window_scale) == expected


@pytest.mark.parametrize("options", ["02000000", "02010000", "02050000", "01010102", "03ff0000"])
def test_options_of_bad_lengths_are_refused(options: str) -> None:
    header = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 24 << 2, SYN, 5, 0, 0)

    with pytest.raises(FrameError, match="option"):
        parse_tcp(parse_ipv4(make_packet(Protocol.TCP, header + bytes.fromhex(options))))


@pytest.mark.parametrize("words", [0, 4, 6, 15])
def test_tcp_headers_of_bad_lengths_are_refused(words: int) -> None:
    header = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, words << 4, ACK, 5, 0, 0)

    with pytest.raises(FrameError, match="TCP header"):
        parse_tcp(parse_ipv4(make_packet(Protocol.TCP, header)))


def test_padding_behind_a_packet_is_no_payload() -> None:
    frame = make_packet(Protocol.UDP, struct.pack("!HHHH", 5, 53, 10, 0) + b"ab") + bytes(18)

    datagram = parse_udp(parse_ipv4(frame))

    assert (datagram.source_port, datagram.destination_port) == (5, 53)
    assert bytes(datagram.payload) == b"ab"


@pytest.mark.parametrize("length", [0, 7, 11, 65535])
def test_datagrams_of_bad_lengths_are_refused(length: int) -> None:
    packet = parse_ipv4(make_packet(Protocol.UDP, struct.pack("!HHHH", 5, 53, length, 0) + b"ab"))

    with pytest.raises(FrameError, match="UDP"):
        parse_udp(packet)


def parse_in_steps(frame: bytes) -> tuple[Flow, Segment] | None:
    """Parse as for any frame; None for a frame that is not TCP's."""
    try:
        packet = parse_ipv4(frame)
        return parse_tcp(packet) if packet.protocol == Protocol.TCP else None
    except FrameError:
        return None


@pytest.mark.parametrize("size", [0, 1, 65480])
def test_plain_segment_is_parsed_in_one_step(size: int) -> None:
    segment = Segment(7, 8, ACK | PSH, 9, os.urandom(size))
    frame = turn_frame(b"".join(build_tcp(FLOW, segment)))

    assert parse_plain_tcp(frame) == (FLOW, segment)


@pytest.mark.parametrize("flags", [ACK, FIN | ACK, RST, SYN, SYN | ACK])
def test_one_step_lets_in_no_other_segment_than_several(flags: int) -> None:
    frame = turn_frame(b"".join(build_tcp(FLOW, Segment(7, 8, flags, 9, b"payload"))))
    damaged = [
        frame[:at] + bytes((value,)) + frame[at + 1 :]
        for at in range(12, 54)
        for value in (0, 1, 5, 6, 8, 0x20, 0x2F, 0x40, 0x45, 0x46, 0x50, 0x5F, 0x60, 0x7F, 0xFF)
    ]
    damaged += [frame[:size] for size in range(len(frame))] + [frame + bytes(9)]

    for each in damaged:
        assert parse_plain_tcp(each) in (None, parse_in_steps(each))


def test_datagram_has_checksums() -> None:
    frame = build_udp(GATEWAY, 53, 40_000, b"odd")

    pseudo = frame[26:34] + struct.pack("!HH", Protocol.UDP, len(frame) - 34)
    assert add_words(pseudo + frame[34:]) == 0xFFFF
    assert frame[34:] == struct.pack("!HHH", 53, 40_000, 11) + frame[40:42] + b"odd"


@pytest.mark.parametrize("at", range(34))
def test_truncated_headers_are_refused(at: int) -> None:
    frame = make_packet(Protocol.TCP, bytes(20))

    with pytest.raises(FrameError):
        parse_ipv4(frame[:at])


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (14, 0x65, "header"),  # version 6
        (14, 0x44, "header"),  # 16 bytes of header
        (14, 0x4F, "header"),  # more header than packet
        (16, 0xFF, "length"),  # more packet than frame
        (20, 0x20, "fragment"),  # more fragments
        (21, 0x01, "fragment"),  # an offset
        (26, 10, "spoofed"),
    ],
)
def test_bad_ipv4_headers_are_refused(at: int, value: int, reason: str) -> None:
    frame = bytearray(make_packet(Protocol.ICMP, bytes(8)))
    frame[at] = value

    with pytest.raises(FrameError, match=reason):
        parse_ipv4(bytes(frame))


def test_echo_request_is_answered() -> None:
    request = b"\x08\x00\0\0\x12\x34\0\x01payload"

    frame = answer_echo(parse_ipv4(make_packet(Protocol.ICMP, request)))

    assert frame is not None
    assert frame[26:34] == GATEWAY + GUEST
    assert frame[34:36] == b"\0\0"
    assert frame[38:] == request[4:]
    assert add_words(frame[34:]) == 0xFFFF


def test_other_icmp_is_not_answered() -> None:
    assert answer_echo(parse_ipv4(make_packet(Protocol.ICMP, bytes(8)))) is None


def test_prohibited_packet_is_quoted() -> None:
    packet = Packet(GATEWAY, Protocol.UDP, memoryview(b"12345678rest"))

    frame = build_prohibited(packet, GATEWAY)

    assert frame[34:36] == b"\x03\x0d"
    assert frame[42 + 12 : 42 + 20] == GUEST + GATEWAY
    assert frame[62:] == b"12345678"
    assert add_words(frame[34:]) == 0xFFFF


def test_arp_is_answered_for_all_addresses_but_the_guests() -> None:
    reply = answer_arp(make_arp(1, GUEST, GATEWAY))

    assert reply is not None
    assert reply[:14] == GUEST_MAC + GATEWAY_MAC + b"\x08\x06"
    assert reply[20:22] == b"\0\x02"
    assert reply[22:] == GATEWAY_MAC + GATEWAY + GUEST_MAC + GUEST
    assert answer_arp(make_arp(1, bytes(4), GUEST)) is None
    assert answer_arp(make_arp(2, GUEST, GATEWAY)) is None


@pytest.mark.parametrize(
    "frame",
    [
        make_arp(1, bytes((10, 0, 0, 1)), GATEWAY),
        make_arp(1, GUEST, GATEWAY, mac=bytes(6)),
        make_arp(1, GUEST, GATEWAY)[:41],
        make_arp(1, GUEST, GATEWAY).replace(b"\x00\x01\x08\x00", b"\x00\x06\x08\x00"),
    ],
)
def test_spoofed_and_malformed_arp_is_refused(frame: bytes) -> None:
    with pytest.raises(FrameError):
        answer_arp(frame)


def test_frames_of_other_protocols_and_sizes_are_refused() -> None:
    assert parse_ether_type(make_packet(1, b"")) is EtherType.IPV4
    assert parse_ether_type(make_arp(1, GUEST, GATEWAY)) is EtherType.ARP
    for frame in (bytes(13), bytes(14), bytes(12) + b"\x86\xdd", bytes(MAX_FRAME + 1)):
        with pytest.raises(FrameError):
            parse_ether_type(frame)


def test_unknown_segment_is_answered_by_a_reset_as_the_rfc_says() -> None:
    assert build_reset(Segment(5, 0, SYN, 9)) == Segment(0, 6, RST | ACK, 0)
    assert build_reset(Segment(0xFFFF_FFFF, 0, FIN, 9, b"ab")) == Segment(0, 2, RST | ACK, 0)
    assert build_reset(Segment(5, 77, ACK, 9, b"ab")) == Segment(77, 0, RST, 0)
    assert build_reset(Segment(5, 77, RST, 9)) is None


def test_flow_is_alike_for_each_segment_of_a_connection() -> None:
    frame = turn_frame(b"".join(build_tcp(FLOW, Segment(1, 2, ACK, 3))))

    flows = {parse_tcp(parse_ipv4(memoryview(bytearray(frame))))[0] for _ in range(2)}

    assert flows == {Flow(40_000, GATEWAY, 80)}
