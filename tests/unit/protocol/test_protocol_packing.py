"""Packed messages: what is sent instead of a long payload, and what an agent refuses."""

from __future__ import annotations

import zlib

import pytest

from slipway_protocol import messages as m
from slipway_protocol.codec import encode
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.framing import encode_frame
from slipway_protocol.packing import MIN_PAYLOAD, unpack
from slipway_protocol.schema import MAX_DATA, MAX_MESSAGE

SOURCE = b"for number in range(10):\n    print(number)\n" * 500
NOISE = bytes(value * 89 % 251 for value in range(5_000))


def pack_bytes(data: bytes) -> m.Packed:
    return m.Packed(zlib.compress(data))


def receive(message: m.Message) -> list[object]:
    """What an agent makes of ``message``."""
    return [*Connection.agent().receive(encode_frame(encode(message)))]


@pytest.mark.parametrize("data", [SOURCE[:MAX_DATA], b"x", NOISE, bytes(MAX_DATA)])
def test_packed_message_arrives_as_the_one_inside(data: bytes) -> None:
    host, agent = Connection.host(), Connection.agent()
    host.packs = True
    message = m.FileData(7, data)

    frame = host.send(message)

    assert agent.receive(frame) == [message]
    assert len(frame) <= len(Connection.host().send(message))


def test_source_takes_a_fraction_of_its_bytes() -> None:
    host = Connection.host()
    host.packs = True

    assert len(host.send(m.FileData(1, SOURCE))) < len(SOURCE) // 4


def test_short_message_is_sent_as_it_is() -> None:
    plain, packing = Connection.host(), Connection.host()
    packing.packs = True
    message = m.Input(1, bytes(MIN_PAYLOAD // 2))

    assert packing.send(message) == plain.send(message)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (m.Packed(b"text"), "not a zlib stream"),
        (m.Packed(zlib.compress(SOURCE)[:-1]), "not one whole stream"),
        (m.Packed(zlib.compress(encode(m.Start(1))) + b"x"), "not one whole stream"),
        (pack_bytes(encode(pack_bytes(encode(m.Start(1))))), "a packed message is inside"),
        (pack_bytes(encode(m.JobDone(1))), "unknown message id"),
        (pack_bytes(encode(m.Start(1)) * 2), "not msgpack"),
        (pack_bytes(b""), "not msgpack"),
    ],
)
def test_other_data_are_a_violation(packed: m.Packed, why: str) -> None:
    (event,) = receive(packed)

    assert isinstance(event, Violation)
    assert why in event.reason


def test_longest_message_is_unpacked_and_a_longer_one_is_not_inflated() -> None:
    # Fields behind the known ones are ignored, so that a message may have any length.
    head = bytes.fromhex("930501") + b"\xc5"
    fill = MAX_MESSAGE - len(head) - 2
    longest = head + fill.to_bytes(2, "big") + bytes(fill)
    assert len(longest) == MAX_MESSAGE

    assert unpack(pack_bytes(longest)) == m.Start(1)
    (event,) = receive(pack_bytes(longest + b"x"))
    (bomb,) = receive(pack_bytes(bytes(20_000_000)))

    assert isinstance(event, Violation)
    assert isinstance(bomb, Violation)
    assert "at most 65536 bytes" in event.reason
    assert "at most 65536 bytes" in bomb.reason


def test_host_refuses_packed_messages_of_a_guest() -> None:
    packed = pack_bytes(encode(m.JobDone(1)))

    (event,) = Connection.host().receive(encode_frame(encode(packed)))

    assert isinstance(event, Violation)
