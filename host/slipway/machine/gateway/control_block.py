"""Transmission control block: the state of one TCP connection, and what segments do to it."""

from __future__ import annotations

from math import inf

from slipway.machine.gateway.addresses import MTU
from slipway.machine.gateway.tcp_receiver import Receiver
from slipway.machine.gateway.tcp_segment import (
    ACK,
    FIN,
    RST,
    SEQUENCE_MASK,
    SYN,
    Segment,
    build_reset,
)
from slipway.machine.gateway.tcp_state import Failure, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.gateway.memory_budget import MemoryBudget
    from slipway.machine.gateway.tcp_sender import Sender

# Bytes of payload in the largest segment that the guest may send.
MSS = MTU - 40
# Without the option (RFC 9293, 3.7.1); and what Linux takes as the least that a peer may mean.
DEFAULT_MSS = 536
LEAST_MSS = 88
# 65,535 << 5 is the least scaled window of 1 MiB. A peer's scale is at most 14 (RFC 7323, 2.3).
WINDOW_SCALE = 5
MOST_WINDOW_SCALE = 14
# Twice the longest life of a segment. The wire is a queue of some MiB, so half a second is long.
TIME_WAIT_SECONDS = 1.0
# At most one answer in this time to segments that can only be forged or stray (RFC 5961, 7).
CHALLENGE_SECONDS = 0.1
# A guest that has finished and waits for the host is asked after this time, and again, whether it
# still knows the connection: Linux forgets one without a program after 60 s (tcp_fin_timeout), and
# a server that never finishes would hold its place for ever. RFC 9293, 3.8.4, describes the probe.
PROBE_SECONDS = 90.0
_HALF = 1 << 31


class ControlBlock:
    """State of a connection, with the rules for segments that arrive (RFC 9293, 3.10.7).

    Sequence numbers inside are not reduced modulo 2**32.
    """

    __slots__ = (
        *("_answers_fin", "_budget", "_challenge_at", "_expires", "_fin_sent", "_peer_scale"),
        *("_phase", "_probe_at", "_receiver", "_reply", "_sender", "failure"),
    )

    def __init__(self, sender: Sender, budget: MemoryBudget, phase: State) -> None:
        # SYN_HELD, SYN_SENT, SYN_RECEIVED, ESTABLISHED (for all states with data), TIME_WAIT or
        # CLOSED.
        self._phase = phase
        self._sender = sender
        self._budget = budget
        self._receiver: Receiver | None = None
        self._peer_scale: int | None = None
        # A segment that does not come from the sender or receiver: a reset.
        self._reply: Segment | None = None
        self._fin_sent = False
        # True if the guest's FIN came before the host's was sent: then no TIME-WAIT is needed.
        self._answers_fin = False
        self._expires = inf
        self._probe_at = inf
        self._challenge_at = -inf
        self.failure: Failure | None = None

    def receive(self, segment: Segment, now: float) -> None:
        """Take a segment of the guest, of any content."""
        if self._phase is State.SYN_SENT:
            self._receive_answer(segment, now)
        elif self._phase is State.SYN_HELD:
            assert self._receiver is not None
            if segment.flags & RST and segment.sequence == self._receiver.next & SEQUENCE_MASK:
                self._end(Failure.RESET)
        elif self._phase is not State.CLOSED:
            self._receive_synchronized(segment, now)

    def _open_receiver(self, sequence: int, syn: Segment) -> None:
        mss = DEFAULT_MSS if syn.mss is None else syn.mss
        mss = max(LEAST_MSS, min(MSS, mss))
        self._sender.set_mss(mss)
        scale = syn.window_scale
        self._peer_scale = None if scale is None else min(scale, MOST_WINDOW_SCALE)
        own_scale = 0 if scale is None else WINDOW_SCALE
        self._receiver = Receiver(sequence + 1, self._budget, mss, own_scale)

    def _receive_answer(self, segment: Segment, now: float) -> None:
        """Take a segment in SYN-SENT (RFC 9293, 3.10.7.3)."""
        sender = self._sender
        flags = segment.flags
        acknowledgment = _unwrap(segment.acknowledgment, sender.first)
        if flags & ACK and not sender.first < acknowledgment <= sender.highest:
            self._reply = build_reset(segment)
            return
        if flags & RST:
            if flags & ACK:
                self._end(Failure.REFUSED)
            return
        if not flags & SYN:
            return
        self._open_receiver(segment.sequence, segment)
        assert self._receiver is not None
        if flags & ACK:
            self._phase = State.ESTABLISHED
            sender.take_ack(acknowledgment, now)
            sender.take_window(segment.sequence, acknowledgment, segment.window, now)
            self._receiver.acknowledge_now()
        else:
            # Both sides open at once: the SYN is repeated with an acknowledgment.
            self._phase = State.SYN_RECEIVED
            sender.repeat_syn()

    def _receive_synchronized(self, segment: Segment, now: float) -> None:
        """Take a segment in any later state (RFC 9293, 3.10.7.4, with RFC 5961)."""
        receiver = self._receiver
        assert receiver is not None
        sequence = _unwrap(segment.sequence, receiver.next)
        flags = segment.flags
        length = segment.length
        if not receiver.is_acceptable(sequence, length):
            self._receive_unacceptable(segment, sequence, now)
        elif flags & RST:
            if sequence != receiver.next:
                self._challenge(now)
            elif receiver.is_finished and self._fin_sent and not self._sender.queue.size:
                # Only the guest's answer to the FIN is missing (CLOSING, LAST-ACK, TIME-WAIT).
                self._close()
            else:
                self._end(Failure.RESET)
        elif flags & SYN:
            self._challenge(now)
        elif flags & ACK and self._take_ack(segment, sequence, now):
            if length and not receiver.is_finished:
                receiver.take(sequence, memoryview(segment.payload), bool(flags & FIN), now)
                if receiver.is_finished:
                    self._probe_at = now + PROBE_SECONDS
            self._check_end(now)

    def _take_ack(self, segment: Segment, sequence: int, now: float) -> bool:
        """Take acknowledgment and window; return whether the segment is to be taken further."""
        sender = self._sender
        acknowledgment = _unwrap(segment.acknowledgment, sender.unacknowledged)
        if self._phase is State.SYN_RECEIVED:
            if not sender.first < acknowledgment <= sender.highest:
                self._reply = build_reset(segment)
                return False
            self._phase = State.ESTABLISHED
        elif not sender.oldest_ack <= acknowledgment <= sender.highest:
            self._challenge(now)
            return False
        advances = acknowledgment > sender.unacknowledged
        repeats = acknowledgment == sender.unacknowledged and not segment.length
        if advances:
            sender.take_ack(acknowledgment, now)
        window = segment.window << (self._peer_scale or 0)
        changes = sender.take_window(sequence, acknowledgment, window, now)
        if repeats and not changes and sender.has_flight:
            sender.note_repeated_ack()
        return True

    def _receive_unacceptable(self, segment: Segment, sequence: int, now: float) -> None:
        receiver = self._receiver
        assert receiver is not None
        flags = segment.flags
        if flags & RST:
            return
        if flags & SYN:
            if self._phase is State.SYN_RECEIVED and not flags & ACK:
                self._sender.repeat_syn()
            else:
                self._challenge(now)
            return
        if sequence == receiver.next and flags & ACK:
            # A probe of the closed window; its acknowledgment counts nevertheless.
            self._take_ack(segment, sequence, now)
            self._check_end(now)
        if segment.length:
            receiver.acknowledge_now()
            if flags & FIN and self._phase is State.TIME_WAIT:
                self._expires = now + TIME_WAIT_SECONDS
        else:
            self._challenge(now)

    def _challenge(self, now: float) -> None:
        """Acknowledge a segment that may be forged or stray, but not too often."""
        if now >= self._challenge_at and self._receiver is not None:
            self._challenge_at = now + CHALLENGE_SECONDS
            self._receiver.acknowledge_now()

    def _check_end(self, now: float) -> None:
        """Leave the states with data once both sides have finished."""
        assert self._receiver is not None
        if not self._sender.fin_acknowledged or not self._receiver.is_finished:
            return
        if self._phase is State.ESTABLISHED:
            if self._answers_fin:
                self._close()
            else:
                self._phase = State.TIME_WAIT
                self._expires = now + TIME_WAIT_SECONDS

    def _reset(self, failure: Failure) -> None:
        sequence = self._sender.highest & SEQUENCE_MASK
        if self._receiver is not None:
            acknowledgment = self._receiver.next & SEQUENCE_MASK
            self._reply = Segment(sequence, acknowledgment, RST | ACK, 0)
        self._end(failure)

    def _end(self, failure: Failure | None) -> None:
        self._close()
        self.failure = failure
        if self._receiver is not None:
            self._receiver.clear()

    def _close(self) -> None:
        self._phase = State.CLOSED
        self._sender.clear()


def _unwrap(number: int, near: int) -> int:
    """Return the number that is ``number`` modulo 2**32 and nearest to ``near``."""
    return near + (((number - near) + _HALF) & SEQUENCE_MASK) - _HALF
