"""The half of a TCP end that sends bytes to the guest: window, retransmission, probes."""

from __future__ import annotations

from math import inf

from slipway.machine.gateway.memory_budget import MOST_BYTES
from slipway.machine.gateway.retransmission import FIRST_SECONDS, RetransmissionTime
from slipway.machine.gateway.send_queue import SendQueue
from slipway.machine.gateway.tcp_segment import FIN, PSH, SEQUENCE_MASK, SYN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.gateway.memory_budget import MemoryBudget

# Without any answer the connection is given up: R2 of RFC 9293, 3.8.3, for data. For a SYN the RFC
# asks for 3 minutes, but a guest is no more than a scheduler away.
GIVE_UP_SECONDS = 100.0
GIVE_UP_SYN_SECONDS = 30.0
# R1: the time alone says nothing if the link was blocked, or the whole machine paused, meanwhile.
LEAST_REPETITIONS = 3
# A window that stays too small for a worthwhile segment is used nevertheless after this time.
OVERRIDE_SECONDS = 0.1
# A window up to this size is used whole.
SMALL_WINDOW = 536
_REPEATED_ACKS = 3

Piece = tuple[int, int, "bytes | memoryview"]


class Sender:
    """Send sequence space (RFC 9293, 3.3.1) of one connection.

    Congestion control (RFC 5681) is left out: the wire is a queue that blocks and loses nothing.
    Only after a time-out does ``_burst`` grow from one segment, so that a guest that had no
    processor time is not sent its whole window again.
    """

    __slots__ = (
        *("_budget", "_burst", "_forced", "_heard", "_highest_window", "_recover", "_repeated"),
        *("_resend", "_time", "_timed", "_timed_at", "_window_ack", "_window_sequence"),
        *("deadline", "fin_acknowledged", "finishing", "first", "highest", "next", "queue"),
        *("_mss", "segment_bytes", "unacknowledged", "window"),
    )

    def __init__(
        self,
        first: int,
        budget: MemoryBudget,
        mss: int,
        now: float,
        syn_seconds: float = FIRST_SECONDS,
    ) -> None:
        # Number of the SYN (ISS), first that is not acknowledged (SND.UNA), next to be sent, and
        # behind all that was sent (SND.NXT of the RFC).
        self.first = first
        self.unacknowledged = first
        self.next = first
        self.highest = first
        self.queue = SendQueue(first + 1)
        # Bytes of the largest segment.
        self.segment_bytes = mss
        self.window = 0
        # True once the host will send no more, and once the guest has acknowledged that.
        self.finishing = False
        self.fin_acknowledged = False
        # Time when the oldest segment is sent again, or a closed window is probed.
        self.deadline = inf
        self._budget = budget
        self._mss = mss
        self._time = RetransmissionTime(syn_seconds)
        self._highest_window = 0
        self._window_sequence = -SEQUENCE_MASK
        self._window_ack = -SEQUENCE_MASK
        self._burst = MOST_BYTES
        # Send one piece though the window does not ask for it; send the oldest piece again.
        self._forced = False
        self._resend = False
        self._repeated = 0
        self._recover = first
        self._timed: int | None = None
        self._timed_at = 0.0
        self._heard = now

    @property
    def room(self) -> int:
        """Bytes that the host should read for the guest now; see ``TcpEnd.send_room``."""
        queued = self.queue.size
        if self.finishing:
            return 0
        most = self._budget.compute_room(queued)
        if not queued:
            return min(self.segment_bytes, most)
        usable = min(self.window, self._budget.limit) - queued
        if usable >= self.segment_bytes:
            return min(usable, most)
        return 0

    def set_mss(self, mss: int) -> None:
        """Set the largest payload that the guest takes, in bytes."""
        self._mss = mss
        self._limit_segments()

    def append(self, data: bytes) -> None:
        """Add bytes of the host."""
        self.queue.append(data)
        self._budget.used += len(data)

    def next_piece(self, now: float) -> Piece | None:
        """Return sequence number, flags and payload of the next segment, or None."""
        if self._resend:
            self._resend = False
            return self._cut_oldest(now)
        start = self.next
        if start == self.first:
            self._note_sent(start, start + 1, now)
            return start, SYN, b""
        if self.unacknowledged == self.first:
            return None
        available = self.queue.end - start
        sends_fin = self.finishing and available >= 0
        if available <= 0 and not sends_fin:
            return None
        usable = self.unacknowledged + min(self.window, self._burst) - start
        count = min(available, self.segment_bytes, usable)
        if self._forced:
            count = min(available, self.segment_bytes, max(1, usable))
        elif count < available and count < self.segment_bytes:
            # The window is silly (RFC 9293, 3.8.6.2.1): wait for more of it.
            count = 0
        count = max(0, count)
        flags = PSH if count and count == available else 0
        if sends_fin and count == available and (usable > count or (self._forced and not count)):
            flags |= FIN
        if not count and not flags & FIN:
            if self.deadline == inf:
                self._heard = now
                self.deadline = now + (OVERRIDE_SECONDS if self.window else self._time.seconds)
            return None
        self._forced = False
        self._note_sent(start, start + count + bool(flags & FIN), now)
        return start, flags, self.queue.cut(start, count) if count else b""

    def pass_time(self, now: float) -> bool:
        """Act on a deadline that has passed; return False if the guest has to be given up."""
        if self.window and not self.has_flight:
            self.deadline = inf
            self._forced = True
            return True
        in_handshake = self.unacknowledged == self.first
        limit = GIVE_UP_SYN_SECONDS if in_handshake else GIVE_UP_SECONDS
        if now - self._heard >= limit and self._time.back_offs >= LEAST_REPETITIONS:
            return False
        self._time.back_off()
        self.deadline = inf
        if self.window:
            self._burst = self.segment_bytes
        self._timed = None
        self._repeated = 0
        self._recover = self.unacknowledged
        self.next = self.unacknowledged
        self._forced = True
        return True

    def repeat_syn(self) -> None:
        """Send the SYN again, since the peer repeats its own."""
        self.next = self.first

    def take_window(self, sequence: int, acknowledgment: int, window: int, now: float) -> bool:
        """Take the window, in bytes, of an acceptable segment; return whether it has changed.

        Only segments that are not older than the last count (RFC 9293, 3.10.7.4).
        """
        if sequence < self._window_sequence or (
            sequence == self._window_sequence and acknowledgment < self._window_ack
        ):
            return False
        self._window_sequence = sequence
        self._window_ack = acknowledgment
        old = self.window
        if not old or not window:
            # A closed window is a reason to wait as long as the guest answers probes.
            self._heard = now
        if window == old:
            return False
        self.window = window
        if window > self._highest_window:
            self._highest_window = window
            self._limit_segments()
        if not old and self.unacknowledged > self.first:
            # Probes were beyond the window, and are lost.
            self._time.reset()
            self.deadline = inf
            self.next = self.unacknowledged
        return True

    def take_ack(self, acknowledgment: int, now: float) -> None:
        """Take an acknowledgment of new data: more than acknowledged, at most ``highest``."""
        if self.unacknowledged == self.first:
            self._time.begin_data()
        if self._timed is not None and acknowledgment >= self._timed:
            self._time.add_sample(now - self._timed_at)
            self._timed = None
        elif self._time.back_offs:
            self._time.reset()
        self._burst = min(MOST_BYTES, self._burst + acknowledgment - self.unacknowledged)
        self.unacknowledged = acknowledgment
        self.next = max(self.next, acknowledgment)
        if acknowledgment > self.queue.end:
            self.fin_acknowledged = True
        before = self.queue.size
        self.queue.drop_until(min(acknowledgment, self.queue.end))
        self._budget.used -= before - self.queue.size
        self._heard = now
        self._repeated = 0
        self._forced = False
        self._resend = acknowledgment < self._recover
        self.deadline = now + self._time.seconds if acknowledgment < self.highest else inf

    def note_repeated_ack(self) -> None:
        """Count an acknowledgment that only repeats the last; the third sends data again."""
        self._repeated += 1
        if self._repeated == _REPEATED_ACKS and self.unacknowledged >= self._recover:
            self._resend = True
            self._recover = self.highest
            self._timed = None

    @property
    def oldest_ack(self) -> int:
        """The oldest acknowledgment that is not forged (RFC 5961, 5.2)."""
        return self.unacknowledged - self._highest_window

    @property
    def has_flight(self) -> bool:
        """True while a segment is not acknowledged."""
        return self.unacknowledged < self.highest

    @property
    def sequence_of_ack(self) -> int:
        """Sequence number of a segment without bytes, which has to lie in the peer's window."""
        if self.unacknowledged == self.first:
            return self.highest
        return max(self.unacknowledged, min(self.highest, self.unacknowledged + self.window))

    def clear(self) -> None:
        """Forget all bytes and deadlines."""
        self._budget.used -= self.queue.size
        self.queue.clear()
        self.deadline = inf

    def _cut_oldest(self, now: float) -> Piece | None:
        start = self.unacknowledged
        if not self.has_flight or start == self.first:
            return None
        count = min(self.queue.end, self.highest, start + self.segment_bytes) - start
        fin = self.finishing and start + count == self.queue.end and self.highest > self.queue.end
        self.deadline = now + self._time.seconds
        payload = self.queue.cut(start, count) if count > 0 else b""
        return start, (FIN if fin else 0) | (PSH if count > 0 else 0), payload

    def _note_sent(self, start: int, end: int, now: float) -> None:
        if not self.has_flight:
            # Until now the deadline was that of a window which had no room.
            self.deadline = inf
            if not self._time.back_offs:
                self._heard = now
        if start == self.highest and self._timed is None and not self._time.back_offs:
            self._timed = end
            self._timed_at = now
        self.next = end
        self.highest = max(self.highest, end)
        if self.deadline == inf:
            self._arm(now)

    def _limit_segments(self) -> None:
        """Let at least two segments fit into the window, as Linux does.

        A receiver that sees one only takes all of its window for the size of a segment, and opens
        a closed window too late.
        """
        most = self._highest_window or self._mss
        self.segment_bytes = min(self._mss, most // 2 if most > SMALL_WINDOW else most)

    def _arm(self, now: float) -> None:
        self.deadline = now + self._time.seconds
