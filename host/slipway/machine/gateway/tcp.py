"""The gateway's end of one TCP connection of the guest (RFC 9293), without sockets or clock.

A splice owns one end and one socket of the host, and joins them::

    end = TcpEnd.hold(syn, now, random_32_bits, budget)     # the guest connects
    end.accept()                         # the host's socket is connected; or refuse()

    end = TcpEnd.connect(now, random_32_bits, budget)       # a published port: host connects

    end.receive(segment, now)            # for each segment of the guest
    sent = sock.sendmsg(end.peek()); end.consume(sent)      # bytes of the guest to the socket
    if end.is_at_end: sock.shutdown(SHUT_WR)
    if end.send_room: data = sock.recv(min(end.send_room, end.mss))
    end.send(data) or end.finish()       # bytes of the socket to the guest; finish() for b""
    while segment := end.next_segment(now): os.writev(link, build_tcp(flow, segment))

Rules for the splice:

- After any other method, and when ``end.deadline`` is reached, call ``next_segment`` until it
  returns None. Where several frames have come, call it once behind the last of them: then one
  acknowledgment answers all. While the link is blocked do not call it: nothing is lost by that.
- Watch the socket for reading only while ``send_room`` is not 0, and for writing only while
  ``peek`` returns something. Bytes that the guest cannot take stay in the socket.
- ``failure`` says that the connection ended before both sides were finished: reset the socket. Call
  ``abort`` if the socket fails.
- Forget the end when its state is CLOSED, ``next_segment`` returns None and all bytes are consumed.
  Segments of unknown connections are answered by ``tcp_segment.build_reset``.
- Times are seconds of any clock that does not go back.
"""

from __future__ import annotations

from math import inf

from slipway.machine.gateway.control_block import (
    DEFAULT_MSS,
    MSS,
    PROBE_SECONDS,
    WINDOW_SCALE,
    ControlBlock,
)
from slipway.machine.gateway.retransmission import FIRST_SECONDS
from slipway.machine.gateway.tcp_receiver import FIRST_WINDOW
from slipway.machine.gateway.tcp_segment import ACK, FIN, RST, SEQUENCE_MASK, SYN, Segment
from slipway.machine.gateway.tcp_sender import Sender
from slipway.machine.gateway.tcp_state import Failure, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.gateway.memory_budget import MemoryBudget
    from slipway.machine.gateway.tcp_sender import Piece

# Buffers of one ``peek``.
MOST_BUFFERS = 16


class TcpEnd(ControlBlock):
    """The gateway's end of a connection. See the module for how a splice uses it."""

    __slots__ = ()

    @classmethod
    def hold(cls, syn: Segment, now: float, first: int, budget: MemoryBudget) -> TcpEnd:
        """Return the end of a connection that the guest opens; the guest waits for an answer.

        ``syn`` has SYN and no ACK. ``first`` is a random number of 32 bits (RFC 6528).
        """
        end = cls(Sender(first, budget, DEFAULT_MSS, now), budget, State.SYN_HELD)
        end._open_receiver(syn.sequence, syn)
        return end

    @classmethod
    def connect(
        cls, now: float, first: int, budget: MemoryBudget, syn_seconds: float = FIRST_SECONDS
    ) -> TcpEnd:
        """Return the end of a connection into the guest; its first segment is the SYN.

        The SYN is repeated after ``syn_seconds``, and then at doubled times, for 30 s.
        """
        return cls(Sender(first, budget, DEFAULT_MSS, now, syn_seconds), budget, State.SYN_SENT)

    @property
    def state(self) -> State:
        """State of the connection."""
        if self._phase is not State.ESTABLISHED:
            return self._phase
        assert self._receiver is not None
        finished = self._receiver.is_finished
        if not self._fin_sent:
            return State.CLOSE_WAIT if finished else State.ESTABLISHED
        if finished:
            return State.LAST_ACK if self._answers_fin else State.CLOSING
        return State.FIN_WAIT_2 if self._sender.fin_acknowledged else State.FIN_WAIT_1

    @property
    def is_half_open(self) -> bool:
        """True until both sides have answered the other's SYN."""
        return self._phase in (State.SYN_HELD, State.SYN_SENT, State.SYN_RECEIVED)

    @property
    def deadline(self) -> float:
        """Time when ``next_segment`` has to be called even if nothing happens, or infinity."""
        if self._phase in (State.SYN_HELD, State.CLOSED):
            return inf
        receiver = self._receiver
        due = receiver.deadline if receiver is not None else inf
        return min(self._sender.deadline, due, self._expires, self._probe_at)

    @property
    def mss(self) -> int:
        """Bytes of payload in the largest segment to the guest; reads of that size save copies.

        At most half of the guest's largest window.
        """
        return self._sender.segment_bytes

    @property
    def send_room(self) -> int:
        """Number of bytes that the splice should read from the host's socket for the guest.

        0 while the guest's window has no room for a worthwhile segment, though a first segment is
        always taken: with it closed windows are probed.
        """
        return 0 if self._phase is State.CLOSED else self._sender.room

    @property
    def is_at_end(self) -> bool:
        """True once the guest has finished, and all of its bytes are consumed."""
        receiver = self._receiver
        return receiver is not None and receiver.is_finished and not receiver.queue.size

    @property
    def held_bytes(self) -> int:
        """Bytes of both directions that the end keeps."""
        received = self._receiver.queue.held if self._receiver is not None else 0
        return self._sender.queue.size + received

    def accept(self) -> None:
        """Answer the guest's SYN, since the host's socket is connected."""
        if self._phase is State.SYN_HELD:
            self._phase = State.SYN_RECEIVED

    def refuse(self) -> None:
        """Reset the connection that the guest opens, since the host's socket is not connected."""
        if self._phase is State.SYN_HELD:
            assert self._receiver is not None
            self._reply = Segment(0, self._receiver.next & SEQUENCE_MASK, RST | ACK, 0)
            self._end(Failure.ABORTED)

    def abort(self) -> None:
        """Reset the connection in any state, and forget its bytes."""
        if self._phase is State.SYN_HELD:
            self.refuse()
        elif self._phase in (State.SYN_SENT, State.TIME_WAIT):
            self._end(Failure.ABORTED)
        elif self._phase is State.CLOSED:
            self._end(self.failure)
        else:
            self._reset(Failure.ABORTED)

    def send(self, data: bytes) -> None:
        """Take bytes for the guest, at most ``send_room``; they are kept, not copied."""
        if data and self._phase is not State.CLOSED:
            assert not self._sender.finishing, "send after finish"
            self._sender.append(data)

    def finish(self) -> None:
        """Send the guest a FIN behind all bytes; the other direction stays open."""
        self._sender.finishing = True

    def peek(self) -> list[memoryview]:
        """Return buffers with bytes of the guest, for ``sendmsg``; they stay until consumed."""
        return self._receiver.queue.peek(MOST_BUFFERS) if self._receiver is not None else []

    def consume(self, count: int) -> None:
        """Forget the first ``count`` bytes of ``peek``, and open the window by them."""
        if count and self._receiver is not None:
            self._receiver.consume(count)

    def next_segment(self, now: float) -> Segment | None:
        """Return the next segment to the guest, or None if there is none at this time."""
        if self._reply is not None:
            reply, self._reply = self._reply, None
            return reply
        if self._phase in (State.SYN_HELD, State.CLOSED):
            return None
        if now >= self._expires:
            self._close()
            return None
        if now >= self._sender.deadline and not self._sender.pass_time(now):
            self._reset(Failure.TIMED_OUT)
            return self.next_segment(now)
        piece = self._sender.next_piece(now)
        if piece is None:
            if self._receiver is None:
                return None
            if now >= self._probe_at and self._plan_probe(now):
                # A number that was acknowledged: the guest has to answer.
                piece = self._sender.unacknowledged - 1, 0, b""
            elif self._receiver.wants_ack(now):
                piece = self._sender.sequence_of_ack, 0, b""
            else:
                return None
        return self._build(piece, now)

    def _plan_probe(self, now: float) -> bool:
        """Return True if the guest is to be probed now; probes end when the host finishes."""
        self._probe_at = inf if self._fin_sent else now + PROBE_SECONDS
        return not self._fin_sent and not self._sender.has_flight

    def _build(self, piece: Piece, now: float) -> Segment:
        sequence, flags, payload = piece
        receiver = self._receiver
        acknowledgment = 0
        window = FIRST_WINDOW
        if receiver is not None:
            flags |= ACK
            acknowledgment = receiver.next & SEQUENCE_MASK
            receiver.note_ack(now, len(payload) > 0)
        if flags & SYN:
            scale = None if receiver is not None and self._peer_scale is None else WINDOW_SCALE
            return Segment(sequence & SEQUENCE_MASK, acknowledgment, flags, window, b"", MSS, scale)
        assert receiver is not None
        if flags & FIN and not self._fin_sent:
            self._fin_sent = True
            self._answers_fin = receiver.is_finished
        window = receiver.open_window()
        return Segment(sequence & SEQUENCE_MASK, acknowledgment, flags, window, payload)
