"""Fakes of the template cache and of stored machines, for tests of pools and launchers.

``FakeTemplateCache`` takes the place of :class:`slipway._snapshots.templates.TemplateCache` under a
pool. Its machines are those of :mod:`support.fake_machine`; ``cloning`` is awaited before each
clone, and may raise; ``reasons`` are given instead of clones, in turn, until they are used up.

``StoredMachine`` is a machine that can be cloned from a snapshot that lies in a real store, by the
real templates. ``moods`` has the fate of each clone, in their order:
``dies``, ``silent``, or else an answer. With ``has_warm_clones``, a template has a
``StoredWarmTemplate``, whose clones have their fates from ``warm_moods``: ``refused`` means that
the host lets none be made, ``late`` that it is too slow for this one, and ``ended`` that the warm
template has ended.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from slipway._run.guest import Guest
from slipway._run.start_info import StartInfo
from slipway._snapshots.key import NoSnapshot
from slipway._util.errors import HostError, NoAnswer
from slipway.machine import memory_files
from slipway.machine.model import PortKind, Snapshot, Template, Transport, WarmTemplate
from slipway_initramfs.architectures import machine_architecture
from support.fake_agent import FakeAgent
from support.fake_machine import FakeHypervisor, FakeLauncher, FakeMachine, make_transports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._admission.admission import Admission
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._snapshots.key import SnapshotKey

MIB = 1024 * 1024
ORIGIN = StartInfo("snapshot", "", "a test's")
MEMORY = MIB
"""What the snapshots here have, in bytes."""


class FakeTemplateCache:
    """See this module's text."""

    def __init__(self, launcher: FakeLauncher, admission: Admission | None = None) -> None:
        self.launcher = launcher
        self.cloning: Callable[[], Awaitable[None]] | None = None
        self.reasons: list[str] = []
        self.there = True
        self.made = 0
        """How many clones were asked for."""
        self.dropped: list[SnapshotKey] = []
        self.asked: list[int] = []
        """How many bytes they were to give."""
        if admission is not None:
            admission.reclaim = self.evict

    def has(self, key: SnapshotKey) -> bool:
        """Whether a snapshot exists."""
        return self.there

    async def clone(self, key: SnapshotKey, assets: Assets, options: Options) -> Guest:
        """Return a guest with a ready agent."""
        self.made += 1
        if self.cloning is not None:
            await self.cloning()
        if self.reasons:
            raise NoSnapshot(self.reasons.pop(0))
        ours, theirs = await make_transports()
        guest = Guest(FakeMachine(ours, theirs, self.launcher, _original(theirs)), ORIGIN)
        try:
            await guest.adopt_clone()
        except BaseException:
            await guest.stop()
            raise
        return guest

    async def prepare_warm_clones(self, key: SnapshotKey, assets: Assets) -> None:
        """Do nothing: fake clones are not forked."""

    def close_template(self, key: SnapshotKey) -> int:
        """Do nothing."""
        self.dropped.append(key)
        return 0

    def evict(self, memory: int) -> None:
        """Do nothing."""
        self.asked.append(memory)


class StoredMachine(FakeMachine):
    """See this module's text."""

    is_warm = False

    async def _serve(self) -> None:
        assert isinstance(self.hypervisor, StoredHypervisor)
        moods = self.hypervisor.warm_moods if self.is_warm else self.hypervisor.moods
        mood = moods.pop(0) if moods and not self._boots else ""
        if mood == "dies":
            self.die()
        elif mood == "silent":
            await asyncio.get_running_loop().create_future()
        else:
            await super()._serve()

    async def snapshot(self) -> Snapshot:  # type: ignore[override]  # it goes to a disk
        """Files that a store takes."""
        (await super().snapshot()).close()
        return stored_snapshot()


class StoredHypervisor(FakeHypervisor):
    """Hypervisor of a test: opens templates of snapshots that lie in a store."""

    idle_memory = MIB

    def __init__(self) -> None:
        self.launcher = FakeLauncher(hypervisor=self)
        self.moods: list[str] = []
        self.warm_moods: list[str] = []
        self.has_warm_clones = False
        self.warm_templates: list[StoredWarmTemplate] = []
        self.templates: list[StoredTemplate] = []
        self.opening: Callable[[], Awaitable[None]] | None = None

    async def open_template(self, snapshot: Snapshot) -> StoredTemplate:
        """Return a template, which owns ``snapshot``, even after an error."""
        try:
            if self.opening is not None:
                await self.opening()
        except BaseException:
            snapshot.close()
            raise
        self.templates.append(StoredTemplate(self, snapshot))
        return self.templates[-1]

    async def boot(self) -> StoredMachine:
        """Return a machine that boots."""
        return StoredMachine(*await make_transports(), self.launcher)


class StoredTemplate(Template):
    """Makes clones of ``snapshot``."""

    def __init__(self, hypervisor: StoredHypervisor, snapshot: Snapshot) -> None:
        self._hypervisor = hypervisor
        self._snapshot = snapshot
        self.is_open = True

    async def clone(self, *, boot_log: bool = False, network: int | None = None) -> StoredMachine:
        """Return a machine. Raises the error of the launcher's ``cloning``."""
        launcher = self._hypervisor.launcher
        if launcher.cloning is not None:
            await launcher.cloning()
        if not self.is_open:
            raise HostError("the template is closed")
        ours, theirs = await make_transports()
        return StoredMachine(ours, theirs, launcher, _original(theirs))

    async def start_warm_template(self) -> StoredWarmTemplate | None:
        """Return a warm template, if the hypervisor has any."""
        if not self._hypervisor.has_warm_clones:
            return None
        ours, theirs = await make_transports()
        machine = WarmMachine(ours, theirs, self._hypervisor.launcher, _original(theirs))
        self._hypervisor.warm_templates.append(StoredWarmTemplate(self._hypervisor, machine))
        return self._hypervisor.warm_templates[-1]

    async def close(self) -> None:
        """Close the snapshot."""
        if self.is_open:
            self.is_open = False
            self._snapshot.close()


class WarmMachine(StoredMachine):
    """Machine whose fate is that of warm clones."""

    is_warm = True


class StoredWarmTemplate(WarmTemplate):
    """See this module's text. The fate of the first machine is that of the template."""

    def __init__(self, hypervisor: StoredHypervisor, machine: StoredMachine) -> None:
        self._hypervisor = hypervisor
        self.machine = machine
        self.is_open = True
        self._refusal = ""
        self._has_ended = False

    @property
    def refusal(self) -> str:
        return self._refusal

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    async def freeze(self) -> None:
        """Stop the machine, if the host lets it be stopped."""
        self._pass_mood()

    async def clone(self, *, network: int | None = None) -> StoredMachine:
        """Return a machine."""
        self._pass_mood()
        ours, theirs = await make_transports()
        return WarmMachine(ours, theirs, self._hypervisor.launcher, _original(theirs))

    def _pass_mood(self) -> None:
        moods = self._hypervisor.warm_moods
        mood = moods.pop(0) if moods and moods[0] in ("refused", "late", "ended") else ""
        if mood == "refused":
            self._refusal = "ptrace: no"
            raise HostError(self._refusal)
        if mood == "late":
            raise NoAnswer("no machine was forked in time")
        if mood == "ended":
            self._has_ended = True
            raise HostError("it has ended")

    async def close(self) -> None:
        """End the machine."""
        self.is_open = False
        await self.machine.stop()


def _original(theirs: Transport) -> FakeAgent:
    """Template without files."""
    return FakeAgent(theirs.reader, theirs.writer, lambda: None)


def stored_snapshot() -> Snapshot:
    """Return a snapshot of a few bytes that a store accepts."""
    memory, state = memory_files.create("test", MEMORY), memory_files.create("test", 5000)
    os.pwrite(memory, b"memory" * 1000, 8192)
    os.pwrite(state, b"state", 0)
    return Snapshot("fake", machine_architecture(), MEMORY, 1, PortKind.VIRTIO, memory, state)
