"""Credit: how much a sender of a stream may still send.

The receiver starts the sender off with a window and hands out credit as it consumes, so that a slow
reader stops the writer instead of filling somebody's memory.
"""

from __future__ import annotations

from slipway_protocol.errors import ProtocolError


class SendWindow:
    """The sender's side: bytes that may be sent now."""

    __slots__ = ("available",)

    def __init__(self, initial: int = 0) -> None:
        self.available = initial

    def grant(self, count: int) -> None:
        """The receiver can take ``count`` more bytes."""
        self.available += count

    def spend(self, count: int) -> None:
        """``count`` bytes are on their way.

        Raises:
            ProtocolError: more than was granted.
        """
        if count > self.available:
            raise ProtocolError(f"{count} bytes sent with credit for {self.available}")
        self.available -= count


class ReceiveWindow:
    """The receiver's side: notices overdraft and says when to hand out credit.

    Credit goes out in halves of the window: one Credit message for many small reads.
    """

    __slots__ = ("_consumed", "_open", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._open = size
        self._consumed = 0

    def count_received(self, count: int) -> None:
        """``count`` bytes came in.

        Raises:
            ProtocolError: the peer sent more than it had credit for.
        """
        if count > self._open:
            raise ProtocolError(f"{count} bytes received with credit for {self._open}")
        self._open -= count

    def count_consumed(self, count: int) -> int:
        """``count`` bytes were passed on; returns the credit to send now, or 0."""
        self._consumed += count
        if self._consumed * 2 < self.size:
            return 0
        grant, self._consumed = self._consumed, 0
        self._open += grant
        return grant
