"""Fake machines: their agent runs in this process, and speaks the real protocol.

``FakeLauncher`` takes the place of the real launcher and of the real images. Neither KVM
nor image nor store is needed; :mod:`support.fake_agent` has the commands of programs. ::

    launcher = FakeLauncher()
    runtime = AsyncRuntime(images=launcher, launcher=launcher)
    result = await runtime.run("print hello\\nexit 3", "bash")

All languages of Slipway can be named; those with a build run a build phase. ``launcher.machines``
are the machines that run now, ``launcher.launched`` counts all, ``launcher.most`` is the most that
ran at once; ``launcher.choices`` counts how often a hypervisor was chosen. A test that is to see
machines boot gives ``boot``, which is awaited before each agent says a word. Languages in
``unbuilt`` have to be "made" first: ``find`` tells one line of progress and waits for the
``threading.Event`` in ``made``. A clone has the kept files of its original; ``snapshotting`` and
``cloning`` are awaited while a clone is made, and may fail. A machine with a network has a real
gateway.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from slipway._run.assets import AssetRequest, Assets
from slipway._run.guest import Guest
from slipway._run.guest_network import open_network
from slipway._run.start_info import StartInfo
from slipway._util.errors import HostError, InputError
from slipway.machine.console import Console
from slipway.machine.model import PortKind, Snapshot, Template, Transport
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.freeze import Agent
from slipway_initramfs.store.records import Archive, Blob, Image, Kernel
from support.fake_agent import FakeAgent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Self

    from slipway._model.host_use import HostUse
    from slipway._model.options import Options
    from slipway.machine.model import Hypervisor, Machine, MachineSpec, MemoryReserve
    from slipway_initramfs.languages.language import Language

    Progress = Callable[[str], None]

MIB = 1024 * 1024
MEMORY = 128 * MIB
"""What a machine has that was not asked for more or less, in bytes."""
MINIMUM_MEMORY = 16 * MIB
OVERHEAD = 128 * MIB
"""What a machine takes beside its guest's memory, in bytes."""
IDLE_MEMORY = 96 * MIB
"""What a clone that waits has at most, in bytes."""
_BLOB = Blob(Path("/nonexistent"), "0" * 64, 0, TrustedTree(Path("/")))


@dataclass(frozen=True, slots=True)
class FakeSnapshot(Snapshot):
    """Empty files, with the options of the machine that would boot them."""

    launcher: FakeLauncher = field(kw_only=True)
    agent: FakeAgent = field(kw_only=True)


class FakeHypervisor:
    """Hypervisor that clones machines, and cannot boot any: a launcher makes them."""

    name = "fake"
    architecture = machine_architecture()
    is_emulated = False
    declares_checksums = False
    overhead = OVERHEAD
    keeps_boot_files = False
    idle_memory = IDLE_MEMORY
    reason = "a test's"

    def check(self) -> None:
        """Accept each host."""

    async def start(self, spec: MachineSpec) -> Machine:
        """Refuse: nothing of a fake machine boots."""
        raise NotImplementedError

    def create_booter(self, reserve: MemoryReserve | None = None) -> None:
        return None

    async def open_template(self, snapshot: Snapshot) -> Template:
        """Return a template of ``snapshot``."""
        assert isinstance(snapshot, FakeSnapshot)
        return FakeTemplate(snapshot)

    def fingerprint(self) -> str:
        """Return the same for each host."""
        return "fake"


class FakeMachine:
    """Machine that ends with a task."""

    def __init__(
        self,
        transport: Transport,
        theirs: Transport,
        launcher: FakeLauncher,
        original: FakeAgent | None = None,
        network: int | None = None,
    ) -> None:
        """``network`` is the machine's end of a link, which the caller closes."""
        self.hypervisor: FakeHypervisor = launcher.hypervisor
        self.transport = transport
        self.console = Console()
        self.pid = os.getpid()
        self.has_network = network is not None
        self.port = PortKind.VIRTIO
        self.streams: dict[PortKind, Transport] = {}
        self._theirs = theirs
        self._launcher = launcher
        self.agent = FakeAgent(theirs.reader, theirs.writer, self.die, original)
        if network is not None:
            self.agent.link = socket.socket(fileno=os.dup(network))
            self.agent.link.setblocking(False)
        self._boots = original is None
        self.stands_still = False
        self.use: HostUse | None = None
        self.loss: tuple[str, str] | None = None
        self._task = asyncio.create_task(self._serve())
        self._ended = asyncio.Event()
        launcher.machines.add(self)

    async def _serve(self) -> None:
        if self._boots and self._launcher.boot is not None:
            await self._launcher.boot()
        await self.agent.serve()

    async def take_port(self, port: PortKind) -> None:
        """Take the only port."""
        assert port is self.port

    def die(self) -> None:
        """End as a machine that is killed does."""
        self._theirs.writer.transport.abort()
        if self.agent.link is not None:
            self.agent.link.close()
        self._launcher.machines.discard(self)
        self._ended.set()

    def hush(self) -> None:
        """Silence the agent, while the machine goes on."""
        self._task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def wait(self) -> int:
        """Wait for the end."""
        await self._ended.wait()
        return -9

    async def use_stream(self, agent: socket.socket) -> None:
        """Refuse: its agent has a stream."""
        raise NotImplementedError

    async def read_exit_report(self) -> str:
        """Return an empty report."""
        return ""

    def read_use(self) -> HostUse | None:
        """Return the use that a test has set."""
        return self.use

    def describe_loss(self) -> tuple[str, str] | None:
        """Return the loss that a test has set."""
        return self.loss

    async def adopt_gateway(self, process: int) -> None:
        """Do nothing: the machine has no process of its own."""

    async def stop(self) -> None:
        """End the machine and the agent."""
        self.die()
        # All that must happen comes before the first wait, which may be cancelled.
        self.transport.writer.transport.abort()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for transport in (self.transport, self._theirs):
            with suppress(OSError):
                await transport.writer.wait_closed()

    async def snapshot(self) -> FakeSnapshot:
        """Return a snapshot. Raises HostError after the end, and the error of ``snapshotting``."""
        self.stands_still = True
        if self._launcher.snapshotting is not None:
            await self._launcher.snapshotting()
        self._check_alive()
        frozen = FakeAgent(self._theirs.reader, self._theirs.writer, self.die, self.agent)
        memory, state = os.memfd_create("memory"), os.memfd_create("state")
        return FakeSnapshot(
            self.hypervisor.name,
            self.hypervisor.architecture,
            MEMORY,
            1,
            PortKind.VIRTIO,
            memory,
            state,
            launcher=self._launcher,
            agent=frozen,
        )

    async def resume(self) -> None:
        """Go on. Raises HostError after the end."""
        self._check_alive()
        self.stands_still = False

    async def record_working_set(self, snapshot: Snapshot) -> Snapshot:
        """Do nothing."""
        return snapshot

    def _check_alive(self) -> None:
        if self._ended.is_set():
            raise HostError("the machine has ended")


class FakeTemplate(Template):
    """Makes clones that have the files of ``snapshot``."""

    def __init__(self, snapshot: FakeSnapshot) -> None:
        self._snapshot = snapshot

    async def clone(self, *, boot_log: bool = False, network: int | None = None) -> FakeMachine:
        """Return a machine that goes on there. Raises the error of ``cloning``."""
        launcher = self._snapshot.launcher
        if launcher.cloning is not None:
            await launcher.cloning()
        ends = await make_transports()
        machine = FakeMachine(*ends, launcher, self._snapshot.agent, network)
        launcher.most = max(launcher.most, len(launcher.machines))
        return machine

    async def close(self) -> None:
        """Close the snapshot."""
        self._snapshot.close()


class FakeLauncher:
    """See this module's text."""

    def __init__(
        self,
        *,
        unbuilt: Iterable[str] = (),
        boot: Callable[[], Awaitable[None]] | None = None,
        hypervisor: FakeHypervisor | None = None,
    ) -> None:
        self.hypervisor = hypervisor or FakeHypervisor()
        self.unbuilt = set(unbuilt)
        self.outdated: set[str] = set()
        self.made = threading.Event()
        self.boot = boot
        self.snapshotting: Callable[[], Awaitable[None]] | None = None
        self.cloning: Callable[[], Awaitable[None]] | None = None
        self.machines: set[FakeMachine] = set()
        self.launched = 0
        self.options: list[Options] = []
        self.most = 0
        self.choices = 0

    def find(self, request: AssetRequest, progress: Progress, *, repair: bool = False) -> Assets:
        """Return the assets of a machine. Raises InputError for too little memory."""
        language, options = request.language, request.options
        if language.name in self.unbuilt:
            progress(f"making {language.image}")
            self.made.wait()
            self.unbuilt.discard(language.name)
        if options.memory is not None and options.memory < MINIMUM_MEMORY:
            raise InputError(
                f"{language.image} needs {MINIMUM_MEMORY // MIB} MiB of memory to boot",
                f"Use {MINIMUM_MEMORY} bytes or more.",
            )
        return _assets(language, options.memory or MEMORY, request.hypervisor)

    def assets_of(self, language: Language, options: Options) -> Assets:
        """Return the assets of this launcher's machines."""
        return self.find(AssetRequest(language, options, self.hypervisor), print)

    def choose_hypervisor(self, options: Options) -> Hypervisor:
        """Return the same for all: fake machines run everywhere."""
        self.choices += 1
        return self.hypervisor

    def is_built(self, language: Language, options: Options) -> bool:
        """Whether all images are built."""
        return language.name not in self.unbuilt

    def is_known(self, language: Language, options: Options) -> bool:
        """Whether there is an image, although it may have to be built anew."""
        return language.name in self.outdated

    async def launch(self, assets: Assets, options: Options) -> Guest:
        """Return a guest with a ready agent."""
        if options.machine not in {"auto", "kvm", "qemu", "fake"}:
            raise InputError(f"there is no machine {options.machine!r}", "Use one of: fake.")
        ends = await make_transports()
        async with AsyncExitStack() as undo:
            network = open_network(undo, PortKind.VIRTIO) if options.network is not None else None
            link = None if network is None else network.machine_end
            machine = FakeMachine(*ends, self, network=link)
            undo.push_async_callback(machine.stop)
            self.launched += 1
            self.options.append(options)
            self.most = max(self.most, len(self.machines))
            guest = Guest(machine, StartInfo(machine_reason="a test's"), network)
            if options.network is not None:
                await guest.start_gateway(options.network)
            await guest.wait_ready()
            undo.pop_all()
        return guest

    async def release(self, guest: Guest) -> None:
        """End the guest."""
        await guest.stop()


class FakeMachines(TypedDict):
    """Return the arguments of a runtime with fake images and machines."""

    images: FakeLauncher
    launcher: FakeLauncher


def fake_machines() -> FakeMachines:
    """Return the arguments for a runtime with a launcher of its own."""
    launcher = FakeLauncher()
    return FakeMachines(images=launcher, launcher=launcher)


async def make_transports() -> tuple[Transport, Transport]:
    """Both ends of a line. A run may be cancelled while they are made."""
    ours, theirs = socket.socketpair()
    try:
        transport = Transport(*await asyncio.open_connection(sock=ours))
    except BaseException:
        ours.close()
        theirs.close()
        raise
    try:
        return transport, Transport(*await asyncio.open_connection(sock=theirs))
    except BaseException:
        transport.writer.transport.abort()  # the socket is its own by now
        theirs.close()
        raise


def _assets(language: Language, memory: int, hypervisor: Hypervisor) -> Assets:
    image, kernel, agent = _parts(language.image)
    return Assets(language, image, kernel, agent, _BLOB.path, None, memory, hypervisor)


@lru_cache(maxsize=64)
def _parts(name: str) -> tuple[Image, Kernel, Agent]:
    manifest = {"memory": 0, "workload": 0, "source": {"kind": "debian"}}
    image = Image(name, "amd64", "0" * 64, _BLOB, manifest)
    kernel = Kernel("amd64", "6.1.0-fake", "0" * 64, _BLOB, _BLOB, {})
    archive = Archive("agent", "fake", "0" * 64, _BLOB)
    return image, kernel, Agent(archive, _BLOB.path, "0" * 64, "fake", "")
