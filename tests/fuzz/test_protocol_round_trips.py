"""What one end sends is what the other receives."""

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.effort import share
from fuzz.strategies import AGENT_MESSAGES, HOST_MESSAGES, data, payloads, values
from slipway_protocol import messages as m
from slipway_protocol.codec import decode, encode
from slipway_protocol.connection import Connection
from slipway_protocol.errors import ProtocolError
from slipway_protocol.framing import decode_frame, encode_frame
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT, Table

DIRECTIONS = [
    pytest.param(HOST_TO_AGENT, kind, strategy, id=f"host to agent {kind.__name__}")
    for kind, strategy in HOST_MESSAGES.items()
] + [
    pytest.param(AGENT_TO_HOST, kind, strategy, id=f"agent to host {kind.__name__}")
    for kind, strategy in AGENT_MESSAGES.items()
]
per_message = pytest.mark.parametrize(("table", "kind", "strategy"), DIRECTIONS)
tables = st.sampled_from([HOST_TO_AGENT, AGENT_TO_HOST])


def test_no_message_is_without_a_strategy() -> None:
    assert set(HOST_MESSAGES) == {kind for kind, _ in HOST_TO_AGENT.values()}
    assert set(AGENT_MESSAGES) == {kind for kind, _ in AGENT_TO_HOST.values()}


def conforms(value: object, annotation: Any) -> bool:
    """Whether ``value`` is of the type that its class says, through and through."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, UnionType}:
        return any(conforms(value, one) for one in arguments)
    if origin is tuple:
        if type(value) is not tuple:
            return False
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return len(kinds) == len(value) and all(map(conforms, value, kinds))
    if type(value) is not annotation:
        return False
    hints = get_type_hints(annotation) if annotation.__module__ == m.__name__ else {}
    if isinstance(value, int):
        return True
    return all(conforms(getattr(value, name), hint) for name, hint in hints.items())


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int),
        (1, m.Stream),
        (m.Stream.STDIN, int),
        (["a"], tuple[str, ...]),
        (("a", 1), tuple[str, ...]),
        (("a",), tuple[str, str]),
        (m.JobDone("a"), m.JobDone),  # type: ignore[arg-type]
        (None, m.Usage),
        (m.Limits(), m.Command | NoneType),
    ],
)
def test_oracle_knows_a_wrong_type(value: object, annotation: object) -> None:
    assert not conforms(value, annotation)


@per_message
@share(4)
@given(chosen=st.data())
def test_message_comes_back_equal_and_of_the_same_types(
    table: Table, kind: type, strategy: st.SearchStrategy[m.Message], chosen: st.DataObject
) -> None:
    message = chosen.draw(strategy)

    decoded = decode(encode(message), table)

    assert decoded == message
    assert conforms(decoded, kind)


@pytest.mark.parametrize(
    ("table", "kind", "strategy"),
    # Packed does not arrive itself: test_protocol_packing.
    [direction for direction in DIRECTIONS if direction.values[1] is not m.Packed],
)
@share(4)
@given(chosen=st.data())
def test_connection_carries_it_and_only_in_its_direction(
    table: Table, kind: type, strategy: st.SearchStrategy[m.Message], chosen: st.DataObject
) -> None:
    message = chosen.draw(strategy)
    host, agent = Connection.host(), Connection.agent()
    sender, receiver = (host, agent) if table is HOST_TO_AGENT else (agent, host)

    stream = sender.send(message)

    assert receiver.receive(stream) == [message]
    both_ways = kind in HOST_MESSAGES and kind in AGENT_MESSAGES
    assert (sender.receive(stream) == [message]) is both_ways


@per_message
@share(4)
@given(chosen=st.data(), extra=st.lists(values.filter(lambda v: not holds_map(v)), max_size=4))
def test_trailing_fields_are_ignored_and_missing_ones_an_error(
    table: Table,
    kind: type,
    strategy: st.SearchStrategy[m.Message],
    chosen: st.DataObject,
    extra: list[object],
) -> None:
    message = chosen.draw(strategy)
    fields = msgpack.unpackb(encode(message), unicode_errors="surrogateescape")
    kept = chosen.draw(st.integers(1, max(1, len(fields) - 1)))

    assert decode(pack_fields([*fields, *extra]), table) == message
    if kept < len(fields):
        with pytest.raises(ProtocolError, match="fields"):
            decode(pack_fields(fields[:kept]), table)


def holds_map(value: object) -> bool:
    """Maps and extensions are never used, not even by a newer peer."""
    if isinstance(value, list):
        return any(holds_map(item) for item in value)
    return isinstance(value, dict | msgpack.ExtType | msgpack.Timestamp)


@per_message
@share(4)
@given(chosen=st.data())
def test_field_of_any_other_value_is_an_error_or_conforms(
    table: Table, kind: type, strategy: st.SearchStrategy[m.Message], chosen: st.DataObject
) -> None:
    fields = msgpack.unpackb(encode(chosen.draw(strategy)), unicode_errors="surrogateescape")
    place = chosen.draw(st.integers(0, len(fields) - 1))
    fields[place] = chosen.draw(values)

    refused_or_conforms(pack_fields(fields), table)


@given(payload=payloads | st.binary(max_size=100), table=tables)
def test_any_payload_is_an_error_or_conforms(payload: bytes, table: Table) -> None:
    refused_or_conforms(payload, table)


@given(fields=st.lists(values, max_size=8), number=st.integers(0, 50), table=tables)
def test_any_list_is_an_error_or_conforms(fields: list[object], number: int, table: Table) -> None:
    refused_or_conforms(pack_fields([number, *fields]), table)


def refused_or_conforms(payload: bytes, table: Table) -> None:
    """Nothing but a message of the table in whole, or ProtocolError."""
    try:
        message = decode(payload, table)
    except ProtocolError:
        return
    kind = type(message)
    assert kind in {known for known, _ in table.values()}
    assert conforms(message, kind)
    assert decode(encode(message), table) == message


def pack_fields(fields: list[object]) -> bytes:
    payload: bytes = msgpack.packb(fields, unicode_errors="surrogateescape")
    return payload


@given(number=st.integers(-(2**63), 2**64 - 1), fields=st.lists(values, max_size=8), table=tables)
def test_unknown_ids_are_an_error(number: int, fields: list[object], table: Table) -> None:
    if number in table:
        number += 1000

    with pytest.raises(ProtocolError):
        decode(pack_fields([number, *fields]), table)


@given(payload=data | payloads.filter(bool))
def test_frame_gives_its_payload_back_and_holds_no_end(payload: bytes) -> None:
    frame = encode_frame(payload)

    assert frame.count(b"\xc0") == 2
    assert decode_frame(frame[1:-1]) == payload
