"""The gateway's TCP end against a second end, and against segments that a test writes."""

from __future__ import annotations

from slipway.machine.gateway.memory_budget import MemoryBudget
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_state import State


def exchange(one: TcpEnd, other: TcpEnd, now: float = 0.0) -> None:
    """Pass segments both ways until both ends are silent."""
    for _ in range(10_000):
        segment, answer = one.next_segment(now), other.next_segment(now)
        if segment is None and answer is None:
            return
        if segment is not None:
            other.receive(segment, now)
        if answer is not None:
            one.receive(answer, now)
    raise AssertionError("the ends do not fall silent")


def open_pair(now: float = 0.0) -> tuple[TcpEnd, TcpEnd]:
    """Return both ends of an open connection: the side that connected, and the other."""
    client = TcpEnd.connect(now, 0xFFFF_FFF0, MemoryBudget())
    syn = client.next_segment(now)
    assert syn is not None
    server = TcpEnd.hold(syn, now, 0xFFFF_0000, MemoryBudget())
    server.accept()
    exchange(client, server, now)
    assert (client.state, server.state) == (State.ESTABLISHED, State.ESTABLISHED)
    return client, server


def take(end: TcpEnd) -> bytes:
    """Return and consume the bytes that have arrived."""
    data = b""
    while buffers := end.peek():
        part = b"".join(buffers)
        end.consume(len(part))
        data += part
    return data


def test_held_connection_is_silent_until_accepted() -> None:
    syn = TcpEnd.connect(0, 5, MemoryBudget()).next_segment(0)
    assert syn is not None
    end = TcpEnd.hold(syn, 0, 7, MemoryBudget())

    assert end.next_segment(1) is None
    end.accept()
    answer = end.next_segment(2)

    assert answer is not None
    assert (answer.sequence, answer.acknowledgment, answer.mss) == (7, 6, 65480)


def test_bytes_arrive_both_ways() -> None:
    client, server = open_pair()
    up, down = bytes(range(256)) * 1000, b"answer" * 10_000

    client.send(up)
    server.send(down)
    exchange(client, server)

    assert (take(server), take(client)) == (up, down)


def test_each_side_may_finish_while_the_other_goes_on() -> None:
    client, server = open_pair()

    client.finish()
    exchange(client, server)
    assert (client.state, server.state) == (State.FIN_WAIT_2, State.CLOSE_WAIT)
    assert server.is_at_end
    server.send(b"late")
    server.finish()
    exchange(client, server)

    assert take(client) == b"late"
    assert client.is_at_end
    assert (client.state, server.state) == (State.TIME_WAIT, State.CLOSED)
    assert client.next_segment(client.deadline) is None
    assert client.state is State.CLOSED
