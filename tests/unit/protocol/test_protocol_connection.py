"""Both ends of a sans-IO connection."""

import pytest

from slipway_protocol import messages as m
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.errors import ProtocolError
from slipway_protocol.framing import BadFrame, encode_frame
from slipway_protocol.schema import MAX_DATA
from unit.protocol.corpus import EXAMPLES, TO_AGENT, TO_HOST


def test_agent_takes_what_a_host_sends() -> None:
    messages = [example.message for example in EXAMPLES if example.direction != TO_HOST]
    host, agent = Connection.host(), Connection.agent()

    events = agent.receive(b"".join(host.send(message) for message in messages))

    # The packed message of the corpus has a Shutdown inside.
    assert events == [m.Shutdown() if isinstance(e, m.Packed) else e for e in messages]


def test_host_takes_what_an_agent_sends() -> None:
    messages = [example.message for example in EXAMPLES if example.direction != TO_AGENT]
    host, agent = Connection.host(), Connection.agent()

    events = host.receive(b"".join(agent.send(message) for message in messages))

    assert events == messages


def test_bad_frames_are_reported_in_their_place_and_counted() -> None:
    host, agent = Connection.host(), Connection.agent()
    stream = agent.send(m.Awake(1)) + b"login: " + agent.send(m.JobDone(1)) + b"\xdb\xc0"

    events = host.receive(stream)

    assert events == [
        m.Awake(1),
        BadFrame("wrong checksum", 7),
        m.JobDone(1),
        BadFrame("invalid escape", 1),
    ]
    assert host.bad_frames == 2


def test_violation_is_reported_in_its_place_and_is_no_bad_frame() -> None:
    host, agent = Connection.host(), Connection.agent()

    events = host.receive(
        agent.send(m.Awake(1)) + encode_frame(b"\x91\x7f") + agent.send(m.JobDone(1))
    )

    assert events == [m.Awake(1), Violation("unknown message id 127"), m.JobDone(1)]
    assert host.bad_frames == 0


def test_restarted_guest_is_understood_from_its_first_message() -> None:
    host = Connection.host()
    cut = Connection.agent().send(m.Output(1, m.Stream.STDOUT, bytes(100)))[:50]
    host.receive(cut)

    events = host.receive(Connection.agent().send(m.Awake(1)))

    assert events == [BadFrame("wrong checksum", 49), m.Awake(1)]


def test_list_too_deep_to_print_is_a_violation_and_not_a_crash() -> None:
    payload = b"\x93\x29\x14" + b"\x91" * 1010 + b"\xc0"

    events = Connection.host().receive(encode_frame(payload))

    assert events == [Violation("Log: a list of 1 is not text of at most 4096 characters")]


def test_data_without_bytes_is_a_violation() -> None:
    """It costs no credit, so a reader that is slow could be sent it without end."""
    host, agent = Connection.host(), Connection.agent()

    from_agent = host.receive(agent.send(m.Output(1, m.Stream.STDOUT, b"")))
    from_host = agent.receive(host.send(m.Input(1, b"")))

    assert [type(event) for event in (*from_agent, *from_host)] == [Violation, Violation]


def test_too_much_data_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match=r"^Output has"):
        Connection.agent().send(m.Output(1, m.Stream.STDOUT, bytes(2 * MAX_DATA)))
