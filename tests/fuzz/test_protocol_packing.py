"""Packed messages of any content."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from fuzz.effort import share
from fuzz.strategies import host_messages, payloads
from slipway_protocol import messages as m
from slipway_protocol.codec import encode
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.framing import BadFrame, encode_frame


@share(2)
@given(st.lists(host_messages, max_size=5))
def test_messages_of_a_host_that_packs_arrive_as_they_are(messages: list[m.HostMessage]) -> None:
    host, agent = Connection.host(), Connection.agent()
    host.packs = True

    received = agent.receive(b"".join(map(host.send, messages)))

    assert received == messages


@share(2)
@given(payloads | st.binary(max_size=300), st.integers(0, 40), st.binary(max_size=2))
def test_any_stream_is_one_message_or_one_violation(
    payload: bytes, cut: int, behind: bytes
) -> None:
    stream = zlib.compress(payload)
    data = stream[: max(1, len(stream) - cut)] + behind

    (event,) = Connection.agent().receive(encode_frame(encode(m.Packed(data))))

    assert not isinstance(event, BadFrame | m.Packed)
    if behind or cut:
        assert isinstance(event, Violation)


@share(2)
@given(st.binary(min_size=1, max_size=500))
def test_any_data_are_one_message_or_one_violation(data: bytes) -> None:
    (event,) = Connection.agent().receive(encode_frame(encode(m.Packed(data))))

    assert not isinstance(event, BadFrame | m.Packed)
