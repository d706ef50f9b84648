"""Templates and snapshots of machines that are none: what pools and launchers are tried with.

``FakeTemplates`` takes the place of :class:`slipway._snapshots.templates.Templates` under a pool.
Its machines are those of :mod:`support.fake_machine`; ``cloning`` is awaited before each clone, and
may raise; ``reasons`` are given instead of clones, one each, as long as there are some.

``StoredMachine`` is a machine that can be cloned from a snapshot that lies in a real store, by the
real templates. What becomes of its clones, in the order in which they are made, ``moods`` says:
``dies`` and ``silent``, else they answer.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, ClassVar

from slipway._model.errors import HostError
from slipway._run.guest import Guest, Origin
from slipway._snapshots.key import NoSnapshot
from slipway.machine import Snapshot, Transport, memory_files
from support.fake_agent import FakeAgent
from support.fake_machine import OVERHEAD, FakeLauncher, FakeMachine, _transports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from slipway._admission import Admission
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._snapshots.key import Shape

MIB = 1024 * 1024
ORIGIN = Origin("snapshot", "", "a test's")
MEMORY = MIB
"""What the snapshots here have, in bytes."""
IDLE_MEMORY = 96 * MIB
"""What a clone that waits has at most, in bytes."""


def hush(machine: FakeMachine) -> None:
    """Have its agent say nothing more, while the machine goes on."""
    machine._task.cancel()


class FakeTemplates:
    """See this module's text."""

    def __init__(self, launcher: FakeLauncher, admission: Admission | None = None) -> None:
        self.launcher = launcher
        self.cloning: Callable[[], Awaitable[None]] | None = None
        self.reasons: list[str] = []
        self.there = True
        self.made = 0
        """How many clones were asked for."""
        self.dropped: list[Shape] = []
        self.asked: list[int] = []
        """How many bytes they were to give."""
        if admission is not None:
            admission.reclaim = self.give_way

    def overhead(self, shape: Shape) -> int:
        """As that of the other fake machines."""
        return OVERHEAD

    def idle_memory(self, shape: Shape) -> int:
        """The same for all."""
        return IDLE_MEMORY

    def has(self, shape: Shape) -> bool:
        """Whether there is a snapshot."""
        return self.there

    async def clone(self, shape: Shape, assets: Assets, options: Options) -> Guest:
        """A guest whose agent is ready."""
        self.made += 1
        if self.cloning is not None:
            await self.cloning()
        if self.reasons:
            raise NoSnapshot(self.reasons.pop(0))
        ours, theirs = await _transports()
        guest = Guest(FakeMachine(ours, theirs, self.launcher, _original(theirs)), ORIGIN)  # type: ignore[arg-type]
        try:
            await guest.wait_restored(clone=True)
        except BaseException:
            await guest.stop()
            raise
        return guest

    def drop(self, shape: Shape) -> int:
        """There is nothing to give back."""
        self.dropped.append(shape)
        return 0

    def give_way(self, memory: int) -> None:
        """There is nothing to give back."""
        self.asked.append(memory)


class StoredMachine(FakeMachine):
    """See this module's text. A test has a subclass of its own, by :meth:`kind`."""

    overhead = OVERHEAD
    idle_memory = MIB
    launcher: ClassVar[FakeLauncher]
    moods: ClassVar[list[str]]
    templates: ClassVar[list[StoredTemplate]]
    opening: ClassVar[Callable[[], Awaitable[None]] | None]

    @classmethod
    def kind(cls) -> type[StoredMachine]:
        """A class that shares nothing with that of another test."""
        own = {"launcher": FakeLauncher(), "moods": [], "templates": [], "opening": None}
        return type("OwnMachine", (cls,), own)

    async def _serve(self) -> None:
        mood = self.moods.pop(0) if self.moods and not self._boots else ""
        if mood == "dies":
            self._end()
        elif mood == "silent":
            await asyncio.get_running_loop().create_future()
        else:
            await super()._serve()

    async def snapshot(self) -> Snapshot:  # type: ignore[override]  # it goes to a disk
        """Files that a store takes."""
        (await super().snapshot()).close()
        return stored_snapshot()

    @classmethod
    async def template(cls, snapshot: Snapshot, state: Path) -> StoredTemplate:  # type: ignore[override]
        """What makes clones of ``snapshot``, which it takes over, whatever happens."""
        try:
            if cls.opening is not None:
                await cls.opening()
        except BaseException:
            snapshot.close()
            raise
        cls.templates.append(StoredTemplate(cls, snapshot))
        return cls.templates[-1]

    @classmethod
    def fingerprint(cls) -> str:
        """Each host is like the other."""
        return "fake"


class StoredTemplate:
    """Makes clones of ``kind``."""

    def __init__(self, kind: type[StoredMachine], snapshot: Snapshot) -> None:
        self._kind = kind
        self._snapshot = snapshot
        self.is_open = True

    async def clone(self, *, boot_log: bool = False) -> StoredMachine:
        """A machine. Raises what the launcher's ``cloning`` does."""
        launcher = self._kind.launcher
        if launcher.cloning is not None:
            await launcher.cloning()
        if not self.is_open:
            raise HostError("the template is closed")
        ours, theirs = await _transports()
        return self._kind(ours, theirs, launcher, _original(theirs))

    async def close(self) -> None:
        """Close the snapshot."""
        if self.is_open:
            self.is_open = False
            self._snapshot.close()


def _original(theirs: Transport) -> FakeAgent:
    """What a clone is one of; it has no files."""
    return FakeAgent(theirs.reader, theirs.writer, lambda: None)


def stored_snapshot() -> Snapshot:
    """A snapshot that a store takes, with a few bytes in it."""
    memory, state = memory_files.create("test", MEMORY), memory_files.create("test", 5000)
    os.pwrite(memory, b"memory" * 1000, 8192)
    os.pwrite(state, b"state", 0)
    return Snapshot("fake", MEMORY, 1, False, memory, state)
