"""Encoding and decoding of messages."""

import msgpack
import pytest

from slipway_protocol import messages as m
from slipway_protocol.codec import decode, encode
from slipway_protocol.errors import ProtocolError
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT, MAX_DATA, MAX_MESSAGE
from unit.protocol.corpus import EXAMPLES, Example

by_name = pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e.message).__name__)


def unpack(example: Example) -> list[object]:
    values: list[object] = msgpack.unpackb(
        bytes.fromhex(example.payload), unicode_errors="surrogateescape"
    )
    return values


def pack(values: list[object]) -> bytes:
    data: bytes = msgpack.packb(values, unicode_errors="surrogateescape")
    return data


@by_name
def test_fields_of_a_newer_peer_are_ignored(example: Example) -> None:
    newer = pack([*unpack(example), 1, "two", [b"three", [None]]])

    for table in example.tables:
        assert decode(newer, table) == example.message


@by_name
def test_message_that_lacks_a_field_is_refused(example: Example) -> None:
    values = unpack(example)

    for count in range(1, len(values)):
        for table in example.tables:
            with pytest.raises(ProtocolError, match="fields"):
                decode(pack(values[:count]), table)


def test_fields_of_a_newer_peer_are_ignored_in_nested_values() -> None:
    limits = [*[0] * 7, False, 0, "newer"]
    command = [["sh"], [["A", "b"]], limits, True, [24, 80, "newer"], [], "newer"]
    done = [38, 7, 2, 0, 0, 0, [1, 2, 3, 4, 5, "newer"], ""]

    job = decode(pack([2, 7, None, command, [], 0, 0, False, 0]), HOST_TO_AGENT)
    phase_done = decode(pack(done), AGENT_TO_HOST)

    run = m.Command(("sh",), (("A", "b"),), m.Limits(), True, m.Tty(24, 80))
    assert job == m.Job(7, None, run, (), 0)
    assert phase_done == m.PhaseDone(7, m.Phase.RUN, m.Verdict.OK, 0, 0, m.Usage(1, 2, 3, 4, 5))


@pytest.mark.parametrize(
    "command",
    [
        [["sh"], [], [*[0] * 7], True],
        [["sh"], [], [*[0] * 7, False]],
        [["sh"], [["A"]], [*[0] * 7, False], True],
        [["sh"], [["A", "b", "c"]], [*[0] * 7, False], True],
        [["sh"], ["Ab"], [*[0] * 7, False], True],
        ["sh", [], [*[0] * 7, False], True],
    ],
    ids=["limits", "command", "name alone", "name and two", "text for a pair", "text for a list"],
)
def test_nested_value_of_another_shape_is_refused(command: list[object]) -> None:
    with pytest.raises(ProtocolError, match=r"^Job: "):
        decode(pack([2, 7, None, command, [], 0, 0, False, 0]), HOST_TO_AGENT)


def test_bytes_that_are_not_utf8_come_back_as_they_were() -> None:
    every_byte = bytes(range(1, 256))
    text = every_byte.decode("utf-8", "surrogateescape")

    decoded = decode(encode(m.Log(m.Level.INFO, text)), AGENT_TO_HOST)

    assert isinstance(decoded, m.Log)
    assert decoded.text.encode("utf-8", "surrogateescape") == every_byte


def test_most_data_fits_into_a_message() -> None:
    for message in (
        m.Output(0xFFFF_FFFF, m.Stream.STDERR, bytes(MAX_DATA)),
        m.FileData(0xFFFF_FFFF, bytes(MAX_DATA)),
    ):
        assert decode(encode(message), AGENT_TO_HOST) == message


def test_data_may_be_sent_from_a_view_of_it() -> None:
    view = memoryview(b"abcdef")[2:4]

    assert decode(encode(m.Input(1, view)), HOST_TO_AGENT) == m.Input(1, b"cd")  # type: ignore[arg-type]


def test_message_longer_than_a_frame_is_not_sent() -> None:
    argument = "x" * 20_000
    job = m.Job(1, None, m.Command((argument,) * 4, (), m.Limits()), (), 0)

    with pytest.raises(ProtocolError) as caught:
        encode(job)

    assert caught.value.message == f"Job has 80037 bytes; at most {MAX_MESSAGE} are allowed"


@pytest.mark.parametrize(
    "value",
    [2**64, -(2**63) - 1, {1}, object(), "\ud800"],
    ids=["65 bits", "minus 65 bits", "a set", "an object", "a surrogate that escapes nothing"],
)
def test_value_that_the_wire_cannot_carry_is_not_sent(value: object) -> None:
    with pytest.raises(ProtocolError, match=r"^Fault cannot be encoded"):
        encode(m.Fault(value, False))  # type: ignore[arg-type]
