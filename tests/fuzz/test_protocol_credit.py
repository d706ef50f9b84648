"""Streams through connection and flow control, at whatever pace either side has."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_protocol import messages as m
from slipway_protocol.connection import Connection
from slipway_protocol.errors import ProtocolError
from slipway_protocol.flow import ReceiveWindow, SendWindow
from slipway_protocol.schema import MAX_DATA

STREAMS = (m.Stream.STDOUT, m.Stream.STDERR)


@dataclass
class Pipe:
    """One stream: what the program writes, where it is now, and what its reader has got."""

    content: bytes
    window: int
    written: int = 0
    received: int = 0
    held: deque[bytes] = field(default_factory=deque)
    read: bytes = b""
    ended: m.OutputEnd | None = None

    def __post_init__(self) -> None:
        self.sender = SendWindow(self.window)
        self.receiver = ReceiveWindow(self.window)


class JobExchange:
    """An agent, a host, and a wire in either direction that carries as much as it is told to."""

    def __init__(self, pipes: dict[m.Stream, Pipe]) -> None:
        self.pipes = pipes
        self.host, self.agent = Connection.host(), Connection.agent()
        self.to_host, self.to_agent = bytearray(), bytearray()

    def write(self, stream: m.Stream, size: int) -> None:
        """The agent passes on what the program wrote, as far as credit goes."""
        pipe = self.pipes[stream]
        piece = pipe.content[pipe.written :][: min(size, pipe.sender.available, MAX_DATA)]
        if piece:
            pipe.sender.spend(len(piece))
            pipe.written += len(piece)
            self.to_host += self.agent.send(m.Output(1, stream, piece))
            if pipe.written == len(pipe.content):
                self.to_host += self.agent.send(m.OutputEnd(1, stream, pipe.written, 0))

    def carry_to_host(self, size: int) -> None:
        data = bytes(self.to_host[:size])
        del self.to_host[:size]
        for event in self.host.receive(data):
            assert isinstance(event, m.Output | m.OutputEnd)
            pipe = self.pipes[event.stream]
            assert pipe.ended is None
            if isinstance(event, m.OutputEnd):
                pipe.ended = event
            else:
                pipe.receiver.count_received(len(event.data))
                pipe.received += len(event.data)
                pipe.held.append(event.data)

    def carry_to_agent(self, size: int) -> None:
        data = bytes(self.to_agent[:size])
        del self.to_agent[:size]
        for event in self.agent.receive(data):
            assert isinstance(event, m.Credit)
            self.pipes[event.stream].sender.grant(event.count)

    def read(self, stream: m.Stream) -> None:
        """The host's reader takes one piece."""
        pipe = self.pipes[stream]
        if pipe.held:
            piece = pipe.held.popleft()
            pipe.read += piece
            if grant := pipe.receiver.count_consumed(len(piece)):
                self.to_agent += self.host.send(m.Credit(1, stream, grant))

    def act(self, action: str, stream: m.Stream, size: int) -> None:
        if action == "write":
            self.write(stream, size)
        elif action == "read":
            self.read(stream)
        elif action == "carry to host":
            self.carry_to_host(size)
        else:
            self.carry_to_agent(size)
        for pipe in self.pipes.values():
            # On the way and unread together are never more than the reader said it could take.
            assert pipe.written - len(pipe.read) <= pipe.window
            assert sum(map(len, pipe.held)) == pipe.received - len(pipe.read)


contents = st.binary(max_size=400) | st.integers(0, 3 * MAX_DATA).map(
    lambda size: bytes(range(256)) * (size // 256)
)
windows = st.integers(1, 50) | st.sampled_from([MAX_DATA - 1, MAX_DATA + 1, 1 << 20])
actions = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "carry to host", "carry to agent"]),
        st.sampled_from(STREAMS),
        st.integers(1, 20) | st.integers(1, 100_000),
    ),
    max_size=60,
)


@given(
    out=st.binary(max_size=400),
    err=st.binary(max_size=400),
    sizes=st.tuples(windows, windows),
    acts=actions,
)
def test_streams_arrive_whole_and_in_order_at_any_pace(
    out: bytes, err: bytes, sizes: tuple[int, int], acts: list[tuple[str, m.Stream, int]]
) -> None:
    run_to_the_end(
        {m.Stream.STDOUT: Pipe(out, sizes[0]), m.Stream.STDERR: Pipe(err, sizes[1])}, acts
    )


@given(out=contents, window=st.sampled_from([1000, MAX_DATA - 1, MAX_DATA + 1]), acts=actions)
def test_long_stream_beside_a_silent_one_arrives_whole(
    out: bytes, window: int, acts: list[tuple[str, m.Stream, int]]
) -> None:
    run_to_the_end({m.Stream.STDOUT: Pipe(out, window), m.Stream.STDERR: Pipe(b"", 1)}, acts)


def run_to_the_end(pipes: dict[m.Stream, Pipe], acts: list[tuple[str, m.Stream, int]]) -> None:
    talk = JobExchange(pipes)
    for action, stream, size in acts:
        talk.act(action, stream, size)
    # From here on everybody does what there is to do: it must come to an end, not to a standstill.
    for _ in range(2 + 3 * sum(len(pipe.content) for pipe in pipes.values())):
        for stream in STREAMS:
            for action in ("write", "carry to host", "read", "carry to agent"):
                talk.act(action, stream, 1 << 20)
        if all(pipe.read == pipe.content for pipe in pipes.values()):
            break

    for pipe in pipes.values():
        assert pipe.read == pipe.content
        assert (pipe.ended.sent if pipe.ended else 0) == len(pipe.content)


@given(window=windows, sizes=st.lists(st.integers(1, 2 * MAX_DATA), max_size=20))
def test_reader_that_never_reads_is_sent_its_window_and_no_more(
    window: int, sizes: list[int]
) -> None:
    talk = JobExchange(
        {m.Stream.STDOUT: Pipe(bytes(1 << 21), window), m.Stream.STDERR: Pipe(b"", 1)}
    )

    for size in sizes:
        talk.act("write", m.Stream.STDOUT, size)
        talk.act("carry to host", m.Stream.STDOUT, 1 << 22)

    pipe = talk.pipes[m.Stream.STDOUT]
    assert pipe.received <= window
    assert pipe.sender.available == window - pipe.received
    assert not talk.to_agent


@given(
    window=windows,
    steps=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=30),
)
def test_peer_that_overdraws_is_noticed_at_the_byte(
    window: int, steps: list[tuple[int, int]]
) -> None:
    receiver = ReceiveWindow(window)
    allowed, unread = window, 0

    for arriving, reading in steps:
        if arriving > allowed:
            with pytest.raises(ProtocolError):
                receiver.count_received(arriving)
            return
        receiver.count_received(arriving)
        allowed -= arriving
        unread += arriving
        consumed = min(reading, unread)
        unread -= consumed
        allowed += receiver.count_consumed(consumed)

    with pytest.raises(ProtocolError):
        receiver.count_received(allowed + 1)
