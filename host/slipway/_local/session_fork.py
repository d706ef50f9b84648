"""Fork of a session: a clone of the guest, made between two jobs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from slipway._util.errors import SlipwayError
from slipway._util.threads import call_shielded, run_shielded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._run.guest import Guest

# A cancelled fork is given this time to finish: an interrupted one could cost the original.
FORK_SECONDS = 10.0


async def clone_between_jobs(
    guest: Guest,
    *,
    wanted: Callable[[], bool],
    lose: Callable[[str], Awaitable[None]],
) -> Guest:
    """Clone ``guest``, and resume the original, even if the clone fails.

    A cancelled call leaves no clone.

    Args:
        guest: the original.
        wanted: returns False if the original need not continue.
        lose: called with the reason if the original cannot continue.

    Raises:
        HostError: the guest cannot be cloned.
    """
    work = asyncio.create_task(_clone_and_resume(guest, wanted, lose))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await run_shielded(_undo_clone(work, FORK_SECONDS if wanted() else 0))
        raise


async def _clone_and_resume(
    guest: Guest,
    wanted: Callable[[], bool],
    lose: Callable[[str], Awaitable[None]],
) -> Guest:
    async def resume_original(*, stopped: bool) -> None:
        """Set the original's clock, which stood still; after a failure the machine may as well."""
        if not wanted():
            return
        try:
            if stopped:
                await guest.machine.resume()
            await guest.resync()
        except SlipwayError as error:
            await lose(f"its machine did not continue after a fork: {error.message}")

    async with AsyncExitStack() as undo:
        undo.push_async_callback(call_shielded, partial(resume_original, stopped=True))
        clone = await guest.fork()
        undo.pop_all()
        await undo.enter_async_context(clone)
        await resume_original(stopped=False)
        undo.pop_all()
    return clone


async def _undo_clone(work: asyncio.Task[Guest], seconds: float) -> None:
    """Wait up to ``seconds`` for the clone, and stop it."""
    await asyncio.wait([work], timeout=seconds)
    work.cancel()
    await asyncio.wait([work])
    if not work.cancelled() and work.exception() is None:
        await work.result().stop()
