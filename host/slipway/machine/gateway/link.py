"""Link to the guest's machine: a socket with one Ethernet frame a packet, and its rates.

Nothing is dropped. A frame that the machine does not take yet waits, and meanwhile no frame is read
from the machine; neither is while the guest exceeds its rate. Then the machine's own queue is full,
and its guest waits.
"""

from __future__ import annotations

import os
import select
from collections import deque

from slipway.machine.gateway.addresses import MAX_FRAME
from slipway.machine.gateway.poller import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Frames a second, in either direction: a CPU of the host handles about as many.
FRAME_RATE = 50_000
FRAME_BURST = 50_000
# Frames read at a time, so that sockets of the host get their turn.
BATCH = 64
# Frames of one turn of the loop, in both directions. A guest may ask for segments of 88 bytes and a
# window of 1 MiB for each connection: all of them at once would take the loop many seconds, in
# which it answers nobody.
TURN_FRAMES = 512
_BUFFER_BYTES = MAX_FRAME + 2


class TokenBucket:
    """Rate with a burst. A taker may go below zero once, and then waits until that is made up."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        """Begin full; ``rate`` is in units a second, ``now`` in seconds of any clock."""
        self._rate = rate
        self._burst = self._level = burst
        self._at = now

    def take(self, amount: float) -> None:
        """Take ``amount``, whatever is there."""
        self._level -= amount

    def compute_wait(self, now: float) -> float:
        """Return the seconds until something may be taken; 0 if now."""
        level = self._level + (now - self._at) * self._rate
        self._level = level = level if level < self._burst else self._burst
        self._at = now
        return 0.0 if level > 0 else -level / self._rate + 0.001


class Link:
    """The gateway's end of the link. The descriptor belongs to the caller, and does not block."""

    def __init__(self, descriptor: int, now: float, byte_rate: int = 0) -> None:
        """Take the descriptor; ``byte_rate`` is in bytes a second, 0 for no limit."""
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._frames = TokenBucket(FRAME_RATE, FRAME_BURST, now)
        self._bytes: TokenBucket | None = None
        if byte_rate:
            self._bytes = TokenBucket(byte_rate, max(byte_rate / 4, 2 * MAX_FRAME), now)
        self.ended = False
        # Seconds until the rate allows the next frame.
        self.pause = 0.0
        self._turn_frames = 0

    @property
    def is_blocked(self) -> bool:
        """True while frames wait for the machine, the rate or the next turn: send no data then."""
        return bool(self._waiting) or self.pause > 0 or self._turn_frames >= TURN_FRAMES

    @property
    def events(self) -> int:
        """The events that the link waits for."""
        if self._waiting:
            return WRITE
        return 0 if self.pause else READ

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send a frame, in parts, or keep a copy of it until the machine takes it."""
        if self._waiting:
            self._keep(parts)
            return
        try:
            self._count(os.writev(self._descriptor, parts))
        except BlockingIOError:
            self._keep(parts)
        except OSError:
            self.ended = True

    def flush(self) -> None:
        """Send the frames that wait, as far as the machine takes them."""
        while self._waiting and not self.ended:
            try:
                os.write(self._descriptor, self._waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self.ended = True
            self._waiting.popleft()

    def receive(self, handle: Callable[[bytes], None]) -> None:
        """Call ``handle`` with some frames of the machine, each an object of its own."""
        for _ in range(BATCH):
            if self._waiting:
                return
            try:
                frame = os.read(self._descriptor, _BUFFER_BYTES)
            except BlockingIOError:
                return
            except OSError:
                frame = b""
            if not frame and self._has_ended():
                self.ended = True
                return
            self._count(len(frame))
            handle(frame)

    def _has_ended(self) -> bool:
        """Return True if the other end is closed; an empty packet of the guest looks like that."""
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return bool(poll.poll(0))

    def update_pause(self, now: float) -> None:
        """End a turn of the loop: set :attr:`pause` as of ``now``."""
        self._turn_frames = 0
        self.pause = self._frames.compute_wait(now)
        if self._bytes is not None:
            self.pause = max(self.pause, self._bytes.compute_wait(now))

    def _keep(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        frame = b"".join(parts)
        self._count(len(frame))
        self._waiting.append(frame)

    def _count(self, length: int) -> None:
        self._frames.take(1)
        self._turn_frames += 1
        if self._bytes is not None:
            self._bytes.take(length)
