"""A session's place among all that a runtime runs, and how it gets its machine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from slipway._admission import Needs
from slipway._model.errors import InputError
from slipway._run.launcher import DamagedImage
from slipway._util.threads import call_in_daemon

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._admission import Admission, Ticket
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._run.image_builds import Makings
    from slipway._run.launcher import Launcher
    from slipway_initramfs.languages.catalogue import Language


class OpenSession(Protocol):
    """A session that its runtime has to end when it closes."""

    async def drain(self) -> None:
        """Wait for the end of its runs."""

    async def close(self) -> None:
        """End it now."""


@dataclass(frozen=True, slots=True)
class Home:
    """What the sessions of one runtime share. ``check`` raises Busy while it is being closed."""

    admission: Admission
    launcher: Launcher
    makings: Makings
    sessions: set[OpenSession]
    check: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session was asked for, and a fork of it has as well."""

    language: Language
    options: Options
    key: str
    idle_seconds: float


class Place:
    """A place in the admission of ``home``, as a run has one.

    ``assets`` are known beforehand where the machine is a clone of another session's. Such a one
    may have its memory twice: as it was at the fork, and what was changed since.
    """

    def __init__(self, home: Home, terms: Terms, assets: Assets | None = None) -> None:
        self._home = home
        self._terms = terms
        self._ticket: Ticket | None = None
        self._assets = assets
        self._times = 1 if assets is None else 2

    @property
    def assets(self) -> Assets:
        """What the machine is of; known when the place has been taken."""
        assert self._assets is not None
        return self._assets

    async def take(self) -> None:
        """Wait for room; the image is made first, where it is missing.

        Raises:
            Busy: there is no room in the queue.
            InputError: it needs more than there is in all.
            ImageError: the image cannot be made.
        """
        home, terms = self._home, self._terms
        if self._assets is None:
            if not await asyncio.to_thread(home.launcher.is_built, terms.language):
                self._ticket = home.admission.enter(terms.key, None)
                await home.makings.made(terms.language, _silent)
            self._assets = await asyncio.to_thread(self._find)
        needs = self._needs()
        home.admission.check(needs)
        if self._ticket is None:
            self._ticket = home.admission.enter(terms.key, needs)
        else:
            home.admission.declare(self._ticket, needs)
        await self._ticket.admitted.wait()

    def leave(self) -> None:
        """Give it back; may be called again."""
        if self._ticket is not None:
            self._home.admission.leave(self._ticket)

    async def launch(self) -> Guest:
        """A guest whose agent is ready.

        Raises:
            HostError: this host cannot run it.
        """
        launcher, options = self._home.launcher, self._terms.options
        try:
            return await launcher.launch(self.assets, options)
        except DamagedImage:
            self._assets = await call_in_daemon(lambda: self._find(repair=True))
            return await launcher.launch(self.assets, options)

    def for_fork(self) -> Place:
        """One for a clone of the machine that has this place; it has to be taken yet.

        Raises:
            InputError: there is never room for both.
        """
        other = Place(self._home, self._terms, self._assets)
        mine, its, capacity = self._needs(), other._needs(), self._home.admission.capacity
        if (
            capacity.vms < 2
            or capacity.memory < mine.memory + its.memory
            or capacity.cpus < mine.cpus + its.cpus
        ):
            raise InputError(
                "there is never room for this session and a fork of it at once",
                "It takes a runtime or server with more max_vms, memory_budget or cpus.",
            )
        return other

    def _needs(self) -> Needs:
        memory = (self._times - 1) * self.assets.memory + self.assets.footprint
        return Needs(memory, self._terms.options.cpus)

    def _find(self, *, repair: bool = False) -> Assets:
        terms = self._terms
        return self._home.launcher.find(terms.language, terms.options, _silent, repair=repair)


def _silent(_line: str) -> None:
    """Nobody hears of a session's image that is being made."""
