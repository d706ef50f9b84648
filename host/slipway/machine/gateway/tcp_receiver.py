"""The half of a TCP end that takes bytes from the guest: window and acknowledgments."""

from __future__ import annotations

from math import inf

from slipway.machine.gateway.receive_queue import ReceiveQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.gateway.memory_budget import MemoryBudget

# The window of a SYN, which is never scaled.
FIRST_WINDOW = 0xFFFF
# The host's answer to a short message takes its acknowledgment along if it comes within this time.
ACK_DELAY = 0.002
# This much is no short message; its acknowledgment leaves at once.
LONG_BYTES = 2048


class Receiver:
    """Receive sequence space (RFC 9293, 3.3.1) of one connection.

    A short message is acknowledged late, for the answer to it may come soon. The delay is of no use
    if the answer takes longer: then acknowledgments leave at once, until an answer is quick again.
    """

    __slots__ = (
        *(
            "_ack_at",
            "_budget",
            "_delays",
            "_fin_at",
            "_last_data",
            "_mss",
            "_scale",
            "_unanswered",
        ),
        *("edge", "is_finished", "queue"),
    )

    def __init__(self, start: int, budget: MemoryBudget, mss: int, scale: int) -> None:
        self.queue = ReceiveQueue(start)
        self.edge = start + FIRST_WINDOW
        # True once the guest's FIN and all bytes before it have arrived.
        self.is_finished = False
        self._budget = budget
        self._mss = mss
        self._scale = scale
        self._fin_at: int | None = None
        self._ack_at = inf
        self._delays = True
        self._last_data = -inf
        self._unanswered = 0

    @property
    def next(self) -> int:
        """The next sequence number that is expected (RCV.NXT)."""
        return self.queue.next + self.is_finished

    @property
    def deadline(self) -> float:
        """Time when an acknowledgment has to leave, or infinity."""
        return self._ack_at

    def is_acceptable(self, sequence: int, length: int) -> bool:
        """Return whether a segment has a place in the window (RFC 9293, 3.10.7.4).

        A segment without bytes may also stand at the window's end: a peer that has filled the
        window has no other number.
        """
        if not length:
            return self.next <= sequence <= self.edge
        return sequence < self.edge and sequence + length > self.next

    def take(self, sequence: int, payload: memoryview, has_fin: bool, now: float) -> None:
        """Take payload and FIN of an acceptable segment, as far as the window goes."""
        queue = self.queue
        before = queue.next
        end = sequence + len(payload)
        if has_fin and self._fin_at is None and before <= end <= self.edge:
            self._fin_at = end
        limit = self.edge if self._fin_at is None else self._fin_at
        if end > limit:
            payload = payload[: max(0, limit - sequence)]
        if sequence < before:
            payload = payload[before - sequence :]
            sequence = before
        if len(payload):
            self._insert(sequence, payload)
        if self._fin_at is not None and queue.next >= self._fin_at and not self.is_finished:
            held = queue.held
            queue.drop_early()
            self._budget.used -= held - queue.held
            self.is_finished = True
            self.acknowledge_now()
        elif queue.next == before or queue.is_missing_bytes:
            self.acknowledge_now()
        else:
            self._plan_ack(queue.next - before, now)

    def consume(self, count: int) -> None:
        """Forget bytes that the host has taken; a much larger window is announced."""
        self.queue.consume(count)
        self._budget.used -= count
        if self.is_finished:
            return
        gain = self.queue.next + self._budget.limit - self.queue.size - self.edge
        half = self._budget.limit // 2
        if gain >= half or (
            self.edge - self.queue.next < 2 * self._mss and gain >= min(self._mss, half)
        ):
            self.acknowledge_now()

    def acknowledge_now(self) -> None:
        """Want an acknowledgment in the next segment, or as one."""
        self._ack_at = -inf

    def wants_ack(self, now: float) -> bool:
        """Return whether an acknowledgment has to leave even without data."""
        if now < self._ack_at:
            return False
        if self._ack_at > -inf:
            # Nothing to answer with came in time.
            self._delays = False
        return True

    def note_ack(self, now: float, has_data: bool) -> None:
        """Note that a segment with an acknowledgment leaves, with or without data."""
        self._ack_at = inf
        self._unanswered = 0
        if has_data and now - self._last_data <= ACK_DELAY:
            self._delays = True

    def open_window(self) -> int:
        """Return the window field of a segment that leaves now (not of a SYN).

        The edge moves by enough for a full segment or not at all (RFC 9293, 3.8.6.2.2), and never
        back.
        """
        limit = self._budget.limit
        edge = self.queue.next + limit - self.queue.size
        if edge - self.edge >= min(self._mss, limit // 2):
            self.edge = edge
        return min(0xFFFF, max(0, self.edge - self.next) >> self._scale)

    def clear(self) -> None:
        """Forget all bytes."""
        self._budget.used -= self.queue.held
        self.queue.clear()
        self._ack_at = inf

    def _insert(self, sequence: int, payload: memoryview) -> None:
        held = self.queue.held
        room = self._budget.compute_room(held)
        if room < len(payload):
            payload = payload[:room]
        if len(payload):
            self.queue.insert(sequence, payload)
            self._budget.used += self.queue.held - held

    def _plan_ack(self, size: int, now: float) -> None:
        self._last_data = now
        self._unanswered += size
        if self._unanswered >= LONG_BYTES or not self._delays:
            self.acknowledge_now()
        else:
            self._ack_at = min(self._ack_at, now + ACK_DELAY)
