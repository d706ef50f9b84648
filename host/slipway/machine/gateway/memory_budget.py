"""Bounds on the bytes that all connections of one guest hold together."""

from __future__ import annotations

# At most this for each direction of a connection.
MOST_BYTES = 1 << 20
# For all connections together, without the next constant.
TOTAL_BYTES = 24 << 20
# Each direction may always hold this, or a full budget would stop all of them. 256 connections have
# 8 MiB of such bytes, which makes 32 MiB with the others.
LEAST_BYTES = 1 << 14


class MemoryBudget:
    """Bytes held for one guest, and the share of each connection.

    Ends keep ``used`` up to date. The share shrinks with the number of connections. Windows that
    were announced before are not taken back; the bound on ``used`` holds nevertheless, as bytes
    beyond are dropped and the guest sends them again.
    """

    __slots__ = ("_connections", "_total", "limit", "used")

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        self._total = total_bytes
        self._connections = 0
        self.used = 0
        self.limit = MOST_BYTES

    def change_connections(self, change: int) -> None:
        """Count connections that begin (1) or end (-1), and set ``limit``: bytes a direction."""
        self._connections += change
        share = self._total // (2 * max(1, self._connections))
        self.limit = max(LEAST_BYTES, min(MOST_BYTES, share))

    def compute_room(self, held: int) -> int:
        """Return how many bytes more a direction may hold that holds ``held`` bytes."""
        return max(0, self._total - self.used, LEAST_BYTES - held)
