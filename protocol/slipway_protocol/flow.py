"""Credit: the number of bytes that the sender of a stream may still send.

The sender begins with the receiver's window as credit. The receiver grants more as its consumer
reads. A slow reader therefore stops the writer, and no queue grows without bound.
"""

from __future__ import annotations

from slipway_protocol.errors import ProtocolError


class SendWindow:
    """Sender's count of credit; ``available`` is in bytes."""

    __slots__ = ("available",)

    def __init__(self, initial: int = 0) -> None:
        self.available = initial

    def grant(self, count: int) -> None:
        """Add a credit of ``count`` bytes."""
        self.available += count

    def spend(self, count: int) -> None:
        """Subtract ``count`` bytes that were sent.

        Raises:
            ProtocolError: ``count`` is more than the credit.
        """
        if count > self.available:
            raise ProtocolError(f"{count} bytes sent with credit for {self.available}")
        self.available -= count


class ReceiveWindow:
    """Receiver's count of credit: detects overdraft and decides when to grant more.

    Grants are at least half of the window: one Credit message for many small reads.
    """

    __slots__ = ("_consumed", "_open", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._open = size
        self._consumed = 0

    def count_received(self, count: int) -> None:
        """Count ``count`` bytes that arrived.

        Raises:
            ProtocolError: the peer sent more bytes than its credit.
        """
        if count > self._open:
            raise ProtocolError(f"{count} bytes received with credit for {self._open}")
        self._open -= count

    def count_consumed(self, count: int) -> int:
        """Count ``count`` bytes that the consumer read; return the credit to grant now, or 0."""
        self._consumed += count
        if self._consumed * 2 < self.size:
            return 0
        grant, self._consumed = self._consumed, 0
        self._open += grant
        return grant
