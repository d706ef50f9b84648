"""Credit of a job's stdin."""

from __future__ import annotations

import asyncio

from slipway._util.errors import UnknownOutcome
from slipway._util.units import MIB

# Bytes that an agent may accept at once; ours accepts 64 KiB.
MAX_CREDIT = 16 * MIB
# Grants besides one for each byte that was sent.
MAX_GRANTS = 1024


class StdinCredit:
    """Bytes that the agent still accepts of the job's stdin."""

    def __init__(self) -> None:
        self._available = 0
        self._sent = 0
        self._grants = 0
        self._granted = asyncio.Event()

    def grant(self, count: int) -> None:
        """Add ``count`` bytes of credit.

        Raises:
            UnknownOutcome: the guest grants too much, or too often for what it was sent.
        """
        self._available += count
        self._grants += 1
        if self._available > MAX_CREDIT or self._grants > MAX_GRANTS + self._sent:
            raise UnknownOutcome("the guest broke the protocol: it grants too much credit of stdin")
        self._granted.set()

    async def spend(self, most: int) -> int:
        """Wait for credit; return the bytes to send now, at least 1 and at most ``most``."""
        while not self._available:
            self._granted.clear()
            await self._granted.wait()
        count = min(most, self._available)
        self._available -= count
        self._sent += count
        return count
