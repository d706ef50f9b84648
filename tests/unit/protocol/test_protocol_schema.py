"""Bounds of fields."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from slipway_protocol import messages as m
from slipway_protocol.codec import decode
from slipway_protocol.errors import ProtocolError
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT, MAX_PATH, path

TABLES = {"host to agent": HOST_TO_AGENT, "agent to host": AGENT_TO_HOST}
ENTRIES = [
    pytest.param(kind, checks, id=f"{direction} {kind.__name__}")
    for direction, table in TABLES.items()
    for kind, checks in table.values()
]


@pytest.mark.parametrize(("kind", "checks"), ENTRIES)
def test_every_field_has_a_check(kind: type[Any], checks: tuple[Any, ...]) -> None:
    assert len(fields(kind)) == len(checks)


@pytest.mark.parametrize(("kind", "checks"), ENTRIES)
def test_fields_travel_in_the_order_of_their_class(
    kind: type[Any], checks: tuple[Any, ...]
) -> None:
    # The codec reads __slots__, which dataclasses fill from the fields that a class itself has.
    assert kind.__slots__ == tuple(field.name for field in fields(kind))


@pytest.mark.parametrize(("kind", "checks"), ENTRIES)
def test_messages_cannot_be_changed(kind: type[Any], checks: tuple[Any, ...]) -> None:
    message = kind(*[None for _ in checks])

    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(message, field.name, 1)


def test_id_that_both_directions_use_is_one_message() -> None:
    shared = HOST_TO_AGENT.keys() & AGENT_TO_HOST.keys()

    assert {HOST_TO_AGENT[number] for number in shared} == {
        AGENT_TO_HOST[number] for number in shared
    }
    assert {HOST_TO_AGENT[number][0] for number in shared} == {
        m.File,
        m.FileData,
        m.Files,
        m.Credit,
    }


def test_message_has_one_id() -> None:
    numbers = {(kind, number) for table in TABLES.values() for number, (kind, _) in table.items()}

    assert len({kind for kind, _ in numbers}) == len(numbers)


@pytest.mark.parametrize(
    "inside",
    ["a", "a/b", "...", "..a", "a..", ".hidden", "-rf", "a b", "a\nb", "\udcff", "é" * 255],
)
def test_path_below_its_root_passes(inside: str) -> None:
    assert path(inside) == inside


@pytest.mark.parametrize(
    "outside",
    ["", "/", "/a", "a/", "a//b", ".", "./a", "a/.", "..", "../a", "a/../b", "a/..", "a\0b"],
)
def test_path_that_may_leave_its_root_is_refused(outside: str) -> None:
    with pytest.raises(ProtocolError, match="is not a path"):
        path(outside)


def test_path_is_bounded_in_each_part_and_in_all() -> None:
    longest = "/".join(["p" * 255] * 16)

    assert len(longest) == MAX_PATH - 1
    assert path(longest) == longest
    with pytest.raises(ProtocolError):
        path(longest + "/p")
    with pytest.raises(ProtocolError):
        path("p" * 256)


def test_violation_names_the_message_and_the_rule() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex("9308070101"), HOST_TO_AGENT)
    assert caught.value.message.startswith("not msgpack within bounds")

    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex("930807 01"), HOST_TO_AGENT)
    assert caught.value.message == "Credit has 2 of 3 fields"

    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex("9408070901"), HOST_TO_AGENT)
    assert caught.value.message == "Credit: 9 is not a Stream"

    with pytest.raises(ProtocolError) as caught:
        decode(bytes.fromhex("9107"), AGENT_TO_HOST)
    assert caught.value.message == "unknown message id 7"


def test_violation_shows_hostile_values_in_short() -> None:
    long_text = bytes.fromhex("9220 da1000".replace(" ", "")) + b"\x1b" * 4096

    with pytest.raises(ProtocolError) as caught:
        decode(long_text, AGENT_TO_HOST)

    assert len(caught.value.message) < 120
    assert "\x1b" not in caught.value.message
