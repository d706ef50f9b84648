"""Launchers of a session: for runs that share its machine, and for forks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._admission.admission import Admission
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest


class GuestLender:
    """Launcher of a session's runs: lends the session's guest to each in turn.

    ``lend`` returns the guest, or raises SlipwayError if the session is closed. The session's
    ticket counts the memory of its machine; the output files of a run count while it has the guest.
    """

    def __init__(
        self,
        lend: Callable[[], Guest],
        take_back: Callable[[Guest], Awaitable[None]],
        admission: Admission,
    ) -> None:
        self._lend = lend
        self._take_back = take_back
        self._admission = admission
        self._charged = 0

    async def launch(self, assets: Assets, options: Options) -> Guest:
        """Lend the guest; see :meth:`slipway._run.launcher.Launcher.launch`."""
        guest = self._lend()
        self._charged = options.fetched_bytes
        self._admission.charge(self._charged)
        return guest

    async def release(self, guest: Guest) -> None:
        """Give the guest back to the session."""
        self._admission.charge(-self._charged)
        self._charged = 0
        await self._take_back(guest)


class ForkLauncher:
    """Launcher of a fork's machine, a clone of the original's."""

    def __init__(self, clone: Callable[[], Awaitable[Guest]]) -> None:
        self._clone = clone

    async def launch(self, assets: Assets, options: Options) -> Guest:
        """Clone the original's guest; see :meth:`slipway._run.launcher.Launcher.launch`."""
        return await self._clone()

    async def release(self, guest: Guest) -> None:
        """Stop the clone."""
        await guest.stop()
