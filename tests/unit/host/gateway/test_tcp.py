"""The gateway's TCP end against a second end, and against segments that a test writes."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from random import Random

import pytest

from slipway.machine.gateway.control_block import PROBE_SECONDS
from slipway.machine.gateway.memory_budget import LEAST_BYTES, MOST_BYTES, MemoryBudget
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_segment import ACK, FIN, PSH, RST, SYN, Segment
from slipway.machine.gateway.tcp_state import Failure, State
from support.tcp_wire import Faults, Peer, TcpWire

# Numbers of the gateway's end and of the written guest, near the end of sequence space.
OURS = 0xFFFF_FFFE
THEIRS = 0xFFFF_FFFD
MASK = 0xFFFF_FFFF


def exchange(one: TcpEnd, other: TcpEnd, now: float = 0.0) -> int:
    """Pass segments both ways until both ends are silent; return their number."""
    for number in range(10_000):
        segment, answer = one.next_segment(now), other.next_segment(now)
        if segment is None and answer is None:
            return number
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


def pull(end: TcpEnd, now: float = 0.0) -> list[Segment]:
    """Return the segments that are due."""
    segments = []
    while segment := end.next_segment(now):
        segments.append(segment)
    return segments


class WrittenGuest:
    """A guest whose segments a test writes; numbers count from the first byte of data."""

    def __init__(
        self, *, window: int = 65535, scale: int | None = 0, mss: int | None = 1000
    ) -> None:
        self.budget = MemoryBudget()
        syn = Segment(THEIRS, 0, SYN, window, b"", mss, scale)
        self.end = TcpEnd.hold(syn, 0.0, OURS, self.budget)
        self.end.accept()
        self.syn_ack = pull(self.end)[0]
        self.window = window
        self.write(at=0, ack=0)

    def write(
        self,
        payload: bytes = b"",
        *,
        at: int,
        ack: int,
        flags: int = ACK,
        now: float = 0.0,
        window: int | None = None,
    ) -> list[tuple[int, int, int, bytes]]:
        """Send a segment; return the answers as (number, acknowledgment, flags, payload)."""
        if window is not None:
            self.window = window
        numbers = (at + THEIRS + 1 & MASK, ack + OURS + 1 & MASK)
        self.end.receive(Segment(*numbers, flags, self.window, payload), now)
        return self.pull(now)

    def pull(self, now: float = 0.0) -> list[tuple[int, int, int, bytes]]:
        """Return the segments that are due, in the form of ``write``."""
        return [
            (
                segment.sequence - OURS - 1 & MASK,
                segment.acknowledgment - THEIRS - 1 & MASK,
                segment.flags,
                bytes(segment.payload),
            )
            for segment in pull(self.end, now)
        ]


def test_held_connection_is_silent_until_accepted() -> None:
    end = TcpEnd.hold(Segment(5, 0, SYN, 100, b"", 1460, 7), 0, 7, MemoryBudget())

    assert end.next_segment(1) is None
    assert end.deadline == inf
    end.accept()

    assert pull(end, 2) == [Segment(7, 6, SYN | ACK, 65535, b"", 65480, 5)]


def test_refused_connection_is_reset() -> None:
    end = TcpEnd.hold(Segment(5, 0, SYN, 100), 0, 7, MemoryBudget())

    end.refuse()

    assert pull(end) == [Segment(0, 6, RST | ACK, 0)]
    assert end.state is State.CLOSED


def test_window_scale_is_used_only_if_the_guest_offers_it() -> None:
    guest = WrittenGuest(scale=None, mss=None)

    assert guest.syn_ack.window_scale is None
    assert guest.end.mss == 536
    guest.end.send(bytes(536))
    assert pull(guest.end)[0].window == 65535


def test_repeated_syn_is_answered_again() -> None:
    end = TcpEnd.hold(Segment(5, 0, SYN, 100), 0, 7, MemoryBudget())
    end.accept()
    first = pull(end)

    end.receive(Segment(5, 0, SYN, 100), 0.5)

    assert pull(end, 0.5) == first


def test_syn_is_repeated_at_doubled_times_and_given_up() -> None:
    end = TcpEnd.connect(0.0, 7, MemoryBudget(), syn_seconds=0.02)
    times = []
    now = 0.0
    while end.state is State.SYN_SENT:
        times += [round(now, 2) for segment in pull(end, now) if segment.flags & SYN]
        now = end.deadline if end.deadline < inf else now

    assert times[:4] == [0, 0.02, 0.06, 0.14]
    assert end.failure is Failure.TIMED_OUT
    assert 30 <= now <= 60


def test_reset_of_a_syn_is_a_refusal_only_if_it_acknowledges_the_syn() -> None:
    end = TcpEnd.connect(0.0, 7, MemoryBudget())
    pull(end)

    end.receive(Segment(0, 0, RST, 0), 0.0)
    end.receive(Segment(0, 7, RST | ACK, 0), 0.0)
    assert end.state is State.SYN_SENT
    end.receive(Segment(0, 8, RST | ACK, 0), 0.0)

    assert end.failure is Failure.REFUSED
    assert pull(end) == []


def test_stray_answer_to_a_syn_is_reset_and_the_connection_opens_later() -> None:
    end = TcpEnd.connect(0.0, 7, MemoryBudget())
    pull(end)

    end.receive(Segment(90, 55, ACK, 100), 0.0)
    assert pull(end) == [Segment(55, 0, RST, 0)]
    end.receive(Segment(90, 8, SYN | ACK, 100, b"", 1460), 0.0)

    assert end.state is State.ESTABLISHED
    assert pull(end) == [Segment(8, 91, ACK, 65535)]


def test_both_sides_may_open_at_once() -> None:
    one, other = (TcpEnd.connect(0.0, number, MemoryBudget()) for number in (5, 900))
    first, second = pull(one)[0], pull(other)[0]

    other.receive(first, 0.0)
    one.receive(second, 0.0)
    exchange(one, other)

    assert (one.state, other.state) == (State.ESTABLISHED, State.ESTABLISHED)


def test_bytes_arrive_both_ways_over_the_end_of_sequence_space() -> None:
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
    assert (client.state, client.failure) == (State.CLOSED, None)


def test_guest_that_has_finished_is_probed_for_as_long_as_it_answers() -> None:
    guest = WrittenGuest()
    guest.write(at=0, ack=0, flags=ACK | FIN)
    times = []

    for _ in range(3):
        times.append(guest.end.deadline)
        assert guest.pull(times[-1]) == [(MASK, 1, ACK, b"")]
        assert guest.write(at=1, ack=0, now=times[-1]) == []

    assert times == [PROBE_SECONDS, 2 * PROBE_SECONDS, 3 * PROBE_SECONDS]
    assert guest.end.state is State.CLOSE_WAIT


def test_guest_that_no_longer_knows_a_finished_connection_ends_it() -> None:
    guest = WrittenGuest()
    guest.write(at=0, ack=0, flags=ACK | FIN)
    guest.pull(PROBE_SECONDS)

    guest.write(at=1, ack=0, flags=RST, now=PROBE_SECONDS)

    assert (guest.end.state, guest.end.failure) == (State.CLOSED, Failure.RESET)


def test_probes_end_when_the_host_finishes() -> None:
    guest = WrittenGuest()
    guest.write(at=0, ack=0, flags=ACK | FIN)
    guest.end.finish()
    guest.pull()
    guest.write(at=1, ack=1)

    assert (guest.end.state, guest.end.deadline) == (State.CLOSED, inf)


def test_both_sides_may_finish_at_once() -> None:
    client, server = open_pair()
    for end in (client, server):
        end.send(b"last words")
        end.finish()

    ours, theirs = pull(client), pull(server)
    for segment in theirs:
        client.receive(segment, 0.0)
    assert client.state is State.CLOSING
    for segment in ours:
        server.receive(segment, 0.0)
    exchange(client, server)

    assert (client.state, server.state) == (State.TIME_WAIT, State.TIME_WAIT)
    assert take(client) == take(server) == b"last words"


def test_repeated_fin_is_acknowledged_in_time_wait() -> None:
    guest = WrittenGuest()
    guest.end.finish()
    guest.pull()
    guest.write(at=0, ack=1, flags=ACK | FIN)
    assert guest.end.state is State.TIME_WAIT
    expires = guest.end.deadline

    answers = guest.write(at=0, ack=1, flags=ACK | FIN, now=0.5)

    assert answers == [(1, 1, ACK, b"")]
    assert guest.end.deadline == expires + 0.5


def test_reset_after_all_bytes_is_the_end_and_no_failure() -> None:
    guest = WrittenGuest()
    guest.write(b"unread", at=0, ack=0, flags=ACK | FIN)
    guest.end.finish()
    assert guest.pull() == [(0, 7, ACK | FIN, b"")]

    guest.write(at=7, ack=0, flags=RST)

    assert (guest.end.state, guest.end.failure) == (State.CLOSED, None)
    assert take(guest.end) == b"unread"


def test_short_message_is_acknowledged_by_the_answer() -> None:
    guest = WrittenGuest()

    assert guest.write(b"ping", at=0, ack=0) == []
    guest.end.send(b"pong")

    assert guest.pull(0.001) == [(0, 4, ACK | PSH, b"pong")]
    assert guest.end.deadline > 0.5


def test_short_message_without_answer_is_acknowledged_soon_and_the_next_at_once() -> None:
    guest = WrittenGuest()

    assert guest.write(b"a", at=0, ack=0) == []
    assert guest.end.deadline == pytest.approx(0.002)
    assert guest.pull(guest.end.deadline) == [(0, 1, ACK, b"")]
    assert guest.write(b"b", at=1, ack=0, now=1.0) == [(0, 2, ACK, b"")]
    # An answer that is quick brings the delay back.
    guest.end.send(b"quick")
    guest.pull(1.001)

    assert guest.write(b"c", at=2, ack=5, now=2.0) == []


def test_long_message_is_acknowledged_at_once() -> None:
    guest = WrittenGuest()

    assert guest.write(bytes(2048), at=0, ack=0) == [(0, 2048, ACK, b"")]


def test_bytes_that_come_too_early_are_kept() -> None:
    guest = WrittenGuest()

    assert guest.write(b"cd", at=2, ack=0) == [(0, 0, ACK, b"")]
    assert guest.write(b"g", at=6, ack=0, flags=ACK | FIN) == [(0, 0, ACK, b"")]
    assert guest.write(b"abcdef", at=0, ack=0) == [(0, 8, ACK, b"")]

    assert take(guest.end) == b"abcdefg"
    assert guest.end.is_at_end


@pytest.mark.parametrize("overlap", [1, 3, 6])
def test_overlapping_bytes_arrive_once(overlap: int) -> None:
    guest = WrittenGuest()
    data = b"0123456789"

    for at in range(0, 10, 2):
        begin = max(0, at - overlap)
        guest.write(data[begin : at + 2], at=begin, ack=0)

    assert take(guest.end) == data


def test_pieces_that_come_too_early_are_bounded() -> None:
    guest = WrittenGuest()

    for number in range(1000):
        guest.write(b"x", at=2 * number + 2, ack=0)

    assert guest.budget.used == 64


def test_unread_bytes_close_the_window_and_reading_opens_it() -> None:
    client, server = open_pair()
    sent = 0
    while room := client.send_room:
        client.send(bytes(room))
        sent += room
        exchange(client, server)
        assert sent <= 2 * MOST_BYTES

    assert MOST_BYTES <= sent <= MOST_BYTES + client.mss
    # The rest of the window is too small for a worthwhile segment.
    assert MOST_BYTES - client.mss < server.held_bytes <= MOST_BYTES
    assert client.held_bytes == sent - server.held_bytes
    server.consume(sum(map(len, server.peek())))
    exchange(client, server)

    assert client.held_bytes == 0


def test_closed_window_is_probed_for_as_long_as_the_guest_answers() -> None:
    guest = WrittenGuest(window=0)
    guest.end.send(b"hello")
    times = []
    now = 0.0
    assert guest.pull(now) == []
    while now < 1000:
        now = guest.end.deadline
        times.append(now)
        assert guest.pull(now) == [(0, 0, ACK, b"h")]
        guest.write(at=0, ack=0, now=now)

    assert times[:4] == [1, 3, 7, 15]
    assert max(b - a for a, b in pairwise(times)) == 60
    assert guest.write(at=0, ack=0, window=100, now=now) == [(0, 0, ACK | PSH, b"hello")]


def test_guest_that_does_not_answer_is_given_up_and_reset() -> None:
    guest = WrittenGuest()
    guest.end.send(b"hello")
    now = 0.0
    answers = guest.pull(now)
    while guest.end.failure is None:
        now = guest.end.deadline
        answers = guest.pull(now)

    assert guest.end.failure is Failure.TIMED_OUT
    assert answers == [(5, 0, RST | ACK, b"")]
    assert 100 <= now <= 160
    assert guest.budget.used == 0


def test_guest_that_was_paused_is_asked_again_before_it_is_given_up() -> None:
    guest = WrittenGuest()
    guest.end.send(b"hello")
    guest.pull()

    assert guest.pull(1000.0) == [(0, 0, ACK | PSH, b"hello")]
    guest.write(at=0, ack=5, now=1000.5)

    assert (guest.end.state, guest.end.deadline) == (State.ESTABLISHED, inf)


def test_time_out_sends_all_again_beginning_with_one_segment() -> None:
    guest = WrittenGuest()
    guest.end.send(bytes(10_000))
    assert len(guest.pull()) == 10

    assert [at for at, *_ in guest.pull(1.0)] == [0]
    assert [at for at, *_ in guest.write(at=0, ack=1000, now=1.1)] == [1000, 2000]
    assert guest.write(at=0, ack=10_000, now=1.2) == []

    assert guest.budget.used == 0
    assert guest.end.deadline == inf


def test_third_repeated_acknowledgment_sends_the_first_segment_again() -> None:
    guest = WrittenGuest()
    guest.end.send(bytes(5000))
    guest.pull()
    guest.write(at=0, ack=1000)

    assert guest.write(at=0, ack=1000) == []
    assert guest.write(at=0, ack=1000) == []
    assert [at for at, *_ in guest.write(at=0, ack=1000)] == [1000]
    # The answer shows a second loss, which needs no further repetition.
    assert [at for at, *_ in guest.write(at=0, ack=3000)] == [3000]
    assert guest.write(at=0, ack=5000) == []


@pytest.mark.parametrize(
    ("window", "sizes"), [(1500, [750, 750]), (2000, [1000, 1000]), (600, [300, 300]), (500, [500])]
)
def test_segments_have_half_of_a_small_window(window: int, sizes: list[int]) -> None:
    guest = WrittenGuest(window=window)
    guest.end.send(bytes(5000))

    assert [len(data) for *_, data in guest.pull()] == sizes


def test_rest_of_a_window_that_is_too_small_is_used_after_a_while() -> None:
    guest = WrittenGuest(window=2000)
    guest.end.send(bytes(5000))
    guest.pull()

    assert guest.write(at=0, ack=2000, window=900) == []
    assert guest.end.deadline == pytest.approx(0.1)
    assert [len(data) for *_, data in guest.pull(guest.end.deadline)] == [900]
    assert [at for at, *_ in guest.write(at=0, ack=2900, window=2000, now=0.2)] == [2900, 3900]


def test_host_reads_no_more_than_the_guest_takes() -> None:
    guest = WrittenGuest(window=3000)

    assert guest.end.send_room == 1000
    guest.end.send(bytes(1000))
    assert guest.end.send_room == 2000
    guest.end.send(bytes(2000))
    assert guest.end.send_room == 0
    guest.pull()
    guest.write(at=0, ack=1000)

    assert guest.end.send_room == 1000


@pytest.mark.parametrize("off", [1, 100, 60_000])
def test_reset_with_a_wrong_number_is_challenged(off: int) -> None:
    guest = WrittenGuest()

    assert guest.write(at=off, ack=0, flags=RST) == [(0, 0, ACK, b"")]
    assert guest.end.state is State.ESTABLISHED
    guest.write(at=0, ack=0, flags=RST)

    assert guest.end.failure is Failure.RESET


def test_reset_outside_of_the_window_is_ignored() -> None:
    guest = WrittenGuest()

    assert guest.write(at=-1, ack=0, flags=RST) == []
    assert guest.write(at=1 << 20, ack=0, flags=RST | ACK) == []
    assert guest.end.state is State.ESTABLISHED


@pytest.mark.parametrize(
    ("at", "ack", "flags"),
    [(50, 0, SYN), (-1, 0, SYN), (0, 0, SYN | ACK), (0, 1, ACK), (0, -(1 << 20), ACK)],
)
def test_forged_segments_are_challenged_at_most_ten_times_a_second(
    at: int, ack: int, flags: int
) -> None:
    guest = WrittenGuest()

    answers = [
        answer
        for step in range(1000)
        for answer in guest.write(at=at, ack=ack, flags=flags, now=step / 1000)
    ]

    assert answers == [(0, 0, ACK, b"")] * 10
    assert guest.end.state is State.ESTABLISHED


def test_data_with_a_forged_acknowledgment_is_not_taken() -> None:
    guest = WrittenGuest()

    guest.write(b"forged", at=0, ack=5)
    guest.write(b"no ack", at=0, ack=0, flags=PSH)

    assert guest.end.peek() == []


def test_keep_alive_of_the_guest_is_answered() -> None:
    guest = WrittenGuest()

    assert guest.write(at=-1, ack=0) == [(0, 0, ACK, b"")]


def test_abort_resets_and_forgets_all_bytes() -> None:
    guest = WrittenGuest()
    guest.write(bytes(5000), at=0, ack=0)
    guest.end.send(bytes(700))

    guest.end.abort()

    assert guest.pull() == [(0, 5000, RST | ACK, b"")]
    assert guest.budget.used == guest.end.held_bytes == 0
    assert guest.end.deadline == inf


def test_share_of_a_connection_shrinks_with_their_number() -> None:
    budget = MemoryBudget()

    budget.change_connections(12)
    assert budget.limit == MOST_BYTES
    budget.change_connections(244)

    assert 256 * 2 * budget.limit == 24 << 20


def test_full_budget_leaves_each_connection_a_little() -> None:
    guest = WrittenGuest()
    guest.budget.used = 24 << 20

    guest.write(bytes(60_000), at=0, ack=0)
    room = guest.end.send_room

    assert sum(map(len, guest.end.peek())) == LEAST_BYTES
    assert 0 < room <= LEAST_BYTES


def test_echoed_byte_is_one_frame_each_way() -> None:
    client, server = open_pair()

    frames = 0
    for number in range(10):
        now = number / 1000
        client.send(b"x")
        frames += exchange(client, server, now)
        server.send(take(server))
        frames += exchange(client, server, now)
        assert take(client) == b"x"

    assert frames == 20


def test_small_messages_take_no_more_memory_than_their_bytes() -> None:
    guest = WrittenGuest()

    for at in range(0, 20_000, 4):
        guest.write(b"tiny", at=at, ack=0)

    assert len(guest.end.peek()) <= 6
    assert take(guest.end) == b"tiny" * 5000


def test_transfer_on_a_perfect_wire_repeats_nothing() -> None:
    data = Random(1).randbytes(3 << 20)
    wire = TcpWire(Random(2), Faults(), Peer(data), Peer(data))

    wire.run(most_seconds=10)

    assert wire.client.received == wire.server.received == data
    # 49 segments of data each way, an acknowledgment for each at most, and both ends.
    assert wire.segments <= 4 * 49 + 8
    assert wire.now < 1
