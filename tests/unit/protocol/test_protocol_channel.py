"""Host's end over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from slipway_protocol import messages as m
from slipway_protocol.channel import Channel
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.errors import ProtocolError
from slipway_protocol.framing import BadFrame, encode_frame
from slipway_protocol.schema import MAX_DATA
from support.waiting import wait_until

# A lost message shows as a wait without end.
pytestmark = pytest.mark.timeout(60)


class Guest:
    """The other end: a plain socket that blocks in a thread, so that the host is on its own."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.connection = Connection.agent()

    async def send(self, *messages: m.AgentMessage) -> None:
        data = b"".join(self.connection.send(message) for message in messages)
        await self.send_bytes(data)

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.to_thread(self.socket.sendall, data)

    async def receive(self, count: int) -> list[object]:
        events: list[object] = []
        while len(events) < count:
            data = await asyncio.to_thread(self.socket.recv, 65536)
            assert data, "the host closed its end"
            events.extend(self.connection.receive(data))
        return events

    def vanish(self) -> None:
        self.socket.close()


@pytest_asyncio.fixture(params=["socketpair", "unix socket", "tcp"])
async def ends(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[Channel, Guest]]:
    """A channel and what it talks to."""
    if request.param == "socketpair":
        ours, theirs = socket.socketpair()
    else:
        family = socket.AF_UNIX if request.param == "unix socket" else socket.AF_INET
        with socket.socket(family) as listener:
            listener.bind(str(tmp_path / "agent") if family == socket.AF_UNIX else ("127.0.0.1", 0))
            listener.listen()
            ours = socket.socket(family)
            ours.connect(listener.getsockname())
            theirs, _ = listener.accept()
    channel = Channel(*await asyncio.open_connection(sock=ours))
    yield channel, Guest(theirs)
    theirs.close()
    await channel.close()


Ends = tuple[Channel, Guest]


async def test_messages_arrive_at_either_end_in_order(ends: Ends) -> None:
    channel, guest = ends
    sent: list[m.HostMessage] = [
        m.Start(1),
        *(m.Input(1, bytes([n])) for n in range(100)),
        m.InputEnd(1),
    ]
    answers: list[m.AgentMessage] = [m.Awake(1), *(m.JobDone(n) for n in range(100))]

    for message in sent:
        await channel.send(message)
    arrived = await guest.receive(len(sent))
    await guest.send(*answers)
    received = [await channel.receive() for _ in answers]

    assert arrived == sent
    assert received == answers


async def test_noise_and_violations_are_events_in_their_place(ends: Ends) -> None:
    channel, guest = ends

    await guest.send(m.Awake(1))
    await guest.send_bytes(b"Linux" + encode_frame(b"\x90"))
    await guest.send(m.JobDone(1))
    events = [await channel.receive() for _ in range(4)]

    assert events == [
        m.Awake(1),
        BadFrame("wrong checksum", 5),
        Violation("a message is a list that begins with its id"),
        m.JobDone(1),
    ]
    assert channel.bad_frames == 1


async def test_receive_returns_none_at_the_end_of_the_stream_each_time(ends: Ends) -> None:
    channel, guest = ends
    await guest.send(m.JobDone(1))
    guest.vanish()

    assert [await channel.receive() for _ in range(3)] == [m.JobDone(1), None, None]


async def test_peer_that_vanishes_in_the_middle_of_a_frame_ends_the_stream(ends: Ends) -> None:
    channel, guest = ends
    await guest.send(m.Awake(1))
    await guest.send_bytes(guest.connection.send(m.JobDone(1))[:-1])
    guest.vanish()

    assert [await channel.receive(), await channel.receive()] == [m.Awake(1), None]


async def test_last_messages_of_a_dead_peer_are_received(ends: Ends) -> None:
    """Death with unread input resets the connection, which asyncio reports before older bytes."""
    channel, guest = ends
    said = [m.Output(1, m.Stream.STDOUT, bytes([n]) * 1000) for n in range(20)]
    await channel.send(m.Input(1, b"never read"))
    await guest.send(*said)
    await asyncio.sleep(0.05)
    guest.vanish()
    await failing_send(channel)

    received = [await channel.receive() for _ in range(len(said) + 1)]

    assert received == [*said, None]


async def test_sending_to_a_peer_that_vanished_fails(ends: Ends) -> None:
    channel, guest = ends
    guest.vanish()

    with pytest.raises(OSError, match=r".+"):
        await failing_send(channel, quiet=False)


async def failing_send(channel: Channel, *, quiet: bool = True) -> None:
    """Send until the stream is known to be broken; the kernel may take a little time to say so."""
    for _ in range(1000):
        try:
            await channel.send(m.Cancel(1))
        except OSError:
            if quiet:
                return
            raise
        await asyncio.sleep(0.001)
    raise AssertionError("the peer is gone, and sending goes on")


async def test_peer_that_does_not_read_makes_the_sender_wait(ends: Ends) -> None:
    channel, guest = ends
    count, sent = 200, 0

    async def send_all() -> None:
        nonlocal sent
        for _ in range(count):
            await channel.send(m.Input(1, bytes(MAX_DATA)))
            sent += 1

    sender = asyncio.create_task(send_all())
    await wait_settled(lambda: sent)
    stuck_at = sent
    arrived = await guest.receive(count)
    await sender

    assert stuck_at < count  # 12 MB are more than sockets and streams keep
    assert sent == len(arrived) == count


async def test_host_that_does_not_read_makes_the_peer_wait(ends: Ends) -> None:
    channel, guest = ends
    frame = guest.connection.send(m.Output(1, m.Stream.STDOUT, bytes(MAX_DATA)))
    count, sent = 400, 0

    async def send_all() -> None:
        nonlocal sent
        for _ in range(count):
            await guest.send_bytes(frame)
            sent += 1

    sender = asyncio.create_task(send_all())
    await wait_settled(lambda: sent)
    stuck_at = sent
    received = [await channel.receive() for _ in range(count)]
    await sender

    assert stuck_at < count  # 24 MB are more than sockets and streams keep
    assert received == [m.Output(1, m.Stream.STDOUT, bytes(MAX_DATA))] * count


async def wait_settled(progress: Callable[[], int]) -> None:
    """Wait until ``progress()`` stands still."""

    async def stands_still() -> bool:
        before = progress()
        await asyncio.sleep(0.1)
        return progress() == before

    await wait_until(stands_still, "no more bytes are taken")


async def test_cancelled_receive_loses_nothing(ends: Ends) -> None:
    channel, guest = ends
    frame = guest.connection.send(m.JobDone(1)) + guest.connection.send(m.JobDone(2))
    for cut in (frame[:3], frame[3:4], b""):
        await guest.send_bytes(cut)
        waiting = asyncio.create_task(channel.receive())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting

    await guest.send_bytes(frame[4:])

    assert [await channel.receive(), await channel.receive()] == [m.JobDone(1), m.JobDone(2)]


async def test_message_that_is_too_long_is_not_sent_and_harms_nothing(ends: Ends) -> None:
    channel, guest = ends

    with pytest.raises(ProtocolError):
        await channel.send(m.Input(1, bytes(2 * MAX_DATA)))
    await channel.send(m.Start(1))

    assert await guest.receive(1) == [m.Start(1)]


async def test_close_sends_the_queue_first(ends: Ends) -> None:
    channel, guest = ends
    messages = [m.Input(1, bytes(MAX_DATA)) for _ in range(20)]

    async def send_and_close() -> None:
        for message in messages:
            await channel.send(message)
        await channel.close()

    closing = asyncio.create_task(send_and_close())
    arrived = await guest.receive(len(messages))
    await closing

    assert arrived == messages
    assert await asyncio.to_thread(guest.socket.recv, 1) == b""


async def test_close_after_the_peer_succeeds(ends: Ends) -> None:
    channel, guest = ends
    await channel.send(m.Input(1, bytes(1000)))
    guest.vanish()
    await failing_send(channel)

    await channel.close()
    await channel.close()
