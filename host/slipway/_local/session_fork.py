"""Clones a guest that lives, and has it go on whatever becomes of the clone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._model.errors import SlipwayError
from slipway._util.threads import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._run.guest import Guest

# A fork that nobody wants any more is not broken off for so long: that could cost the original.
FORK_SECONDS = 10.0


class Forking:
    """Clones ``guest`` between two jobs.

    Args:
        guest: the original.
        wanted: whether the original is to go on; if not, nothing is done for it.
        lose: called with why it cannot.
    """

    def __init__(
        self,
        guest: Guest,
        wanted: Callable[[], bool],
        lose: Callable[[str], Awaitable[None]],
    ) -> None:
        self._guest = guest
        self._wanted = wanted
        self._lose = lose

    async def clone(self) -> Guest:
        """A guest that begins as the original is now. Cancelled, it leaves nothing.

        Raises:
            HostError: it cannot be made.
        """
        work = asyncio.create_task(self._cloned())
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await uninterrupted(self._undo(work))
            raise

    async def _cloned(self) -> Guest:
        try:
            clone = await self._guest.fork()
        except BaseException:
            await uninterrupted(self._go_on(resume=True))
            raise
        try:
            await self._go_on(resume=False)
        except BaseException:
            await uninterrupted(clone.stop())
            raise
        return clone

    async def _undo(self, work: asyncio.Task[Guest]) -> None:
        await asyncio.wait([work], timeout=FORK_SECONDS if self._wanted() else 0)
        work.cancel()
        await asyncio.wait([work])
        if not work.cancelled() and work.exception() is None:
            await work.result().stop()

    async def _go_on(self, *, resume: bool) -> None:
        """The original's clock stood still, and where the fork failed, perhaps all of it does."""
        if not self._wanted():
            return
        try:
            if resume:
                await self._guest.machine.resume()
            await self._guest.wait_restored(clone=False)
        except SlipwayError as error:
            await self._lose(f"its machine did not go on after a fork: {error.message}")
