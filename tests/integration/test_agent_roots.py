"""Frozen agent as PID 1 of very different root file systems, in real machines."""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

import pytest

from slipway._run.port_choice import wait_for_port
from slipway.machine.model import MachineSpec, PortKind
from slipway.machine.qemu_hypervisor import QemuHypervisor
from slipway_initramfs import freeze
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.kernel_build import build_kernel
from slipway_initramfs.rootfs import defaults
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.tree import Tree
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.root import default_root
from slipway_protocol import messages as m
from slipway_protocol.channel import Channel
from slipway_protocol.schema import MAX_DATA, VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from slipway.machine.qemu import QemuMachine
    from slipway_protocol.connection import Event

    Boot = Callable[..., AbstractAsyncContextManager["Guest"]]

pytestmark = [
    pytest.mark.usefixtures("installed_qemu"),
    pytest.mark.debian("apt-get"),
    pytest.mark.timeout(600),
]

MIB = 1 << 20
# Seconds of a wait for the agent in an emulated machine.
PATIENCE = 60
SCRIPT = b"""#!/bin/sh
echo "user $(id -u) in $(pwd)"
ls /.agent >/dev/null && echo "the agent is open to all"
ls /proc/1 >/dev/null && echo "the agent is to be seen"
cat
echo oops >&2
exit 3
"""


class Roots:
    """Makes roots from Debian's packages."""

    def __init__(self, store: ImageStore, progress: Callable[[str], None]) -> None:
        self._store = store
        self._progress = progress

    def packages(self, *names: str) -> Tree:
        """A tree with exactly these packages."""
        tree = Tree()
        with self._store.building("agent-packages", self._progress):
            source = DebianArchive(self._store.apt, "amd64", self._progress)
            packages = [package for package in source.resolve(names) if package.name in names]
            source.fetch(packages)
            for package in packages:
                apply_layer(tree, source.open(package, self._store.temporary), "deb")
        return tree

    def empty(self) -> Tree:
        """Nothing at all."""
        return Tree()

    def debian(self) -> Tree:
        """The C library, a shell and the usual programs, all dynamically linked."""
        tree = Tree()
        defaults.merge_usr(tree, "amd64")
        names = ("libc6", "dash", "coreutils", "libselinux1", "libpcre2-8-0", "libacl1")
        with self._store.building("agent-packages", self._progress):
            source = DebianArchive(self._store.apt, "amd64", self._progress)
            wanted = (*names, "libattr1", "libgmp10")
            packages = [package for package in source.resolve(names) if package.name in wanted]
            source.fetch(packages)
            for package in packages:
                apply_layer(tree, source.open(package, self._store.temporary), "deb")
        defaults.complete_packages(tree, ())
        return tree

    def alpine(self) -> Tree:
        """Musl's loader and busybox under the usual names; nothing of glibc."""
        tree = self.packages("musl", "busybox-static")
        for name in ("sh", "id", "cat", "echo", "ls"):
            tree.add_symlink(f"bin/{name}", "/bin/busybox")
        return tree

    def strange(self) -> Tree:
        """Return a root whose mount points are files and links, with traps for the loader."""
        tree = self.alpine()
        for name in ("dev/console", "tmp", "work"):
            tree.add_file(name, b"not what you expect")
        tree.add_symlink("proc", "/nowhere")
        tree.add_symlink("var", "tmp")
        tree.add_file("etc/ld.so.preload", b"/lib/evil.so\n")
        tree.add_file("etc/ld.so.cache", b"garbage")
        tree.add_file("lib/libc.so.6", b"not a library")
        return tree


@pytest.fixture(scope="session")
def store() -> ImageStore:
    configured = os.environ.get("SLIPWAY_TEST_STORE")
    return ImageStore(Path(configured) if configured else default_root())


@pytest.fixture(scope="session")
def roots(store: ImageStore, progress: Callable[[str], None]) -> Roots:
    return Roots(store, progress)


class Guest:
    """Booted machine, and the messages of its agent."""

    def __init__(self, machine: QemuMachine, channel: Channel | None = None) -> None:
        self.machine = machine
        stream = machine.transport
        self._channel = channel or Channel(stream.reader, stream.writer)

    async def send(self, *messages: m.HostMessage) -> None:
        for message in messages:
            await self._channel.send(message)

    async def until(self, kind: type[m.AgentMessage] | type[m.Fault]) -> list[Event]:
        """Return all messages up to the first of ``kind``."""
        events: list[Event] = []
        while not events or not isinstance(events[-1], kind):
            try:
                event = await asyncio.wait_for(self._channel.receive(), PATIENCE)
            except TimeoutError:
                self.fail(f"a message of the agent, {kind.__name__} at the end")
            assert event is not None, self.machine.console.get_last_lines()
            events.append(event)
        return events

    async def wait_end(self) -> None:
        """Wait until the machine has ended."""
        try:
            await asyncio.wait_for(self.machine.wait(), PATIENCE)
        except TimeoutError:
            self.fail("the end of the machine")

    def fail(self, awaited: str) -> NoReturn:
        """Fail the test after a wait for ``awaited``, with the console."""
        console = self.machine.console.get_last_lines()
        raise AssertionError(f"waited {PATIENCE} s for {awaited}; console: {console}")

    async def hello(self) -> m.Ready:
        await self.until(m.Awake)
        return await self.greet()

    async def greet(self, *, clone: bool = False) -> m.Ready:
        """Send Hello and return the answer, before which the agent must report nothing."""
        await self.send(m.Hello(VERSION, (), time.time_ns(), os.urandom(32), clone))
        (ready,) = await self.until(m.Ready)
        assert isinstance(ready, m.Ready)
        return ready

    async def run(
        self, argv: tuple[str, ...], files: dict[str, bytes], stdin: bytes = b""
    ) -> tuple[dict[m.Stream, bytes], m.PhaseDone]:
        command = m.Command(argv, (), m.Limits(wall_ms=60_000), bool(stdin))
        await self.send(m.Job(1, None, command, (), MIB))
        for path, data in files.items():
            await self.send(m.File(1, path, 0o755, len(data)))
            for start in range(0, len(data), MAX_DATA):
                await self.send(m.FileData(1, data[start : start + MAX_DATA]))
        await self.send(m.Start(1))
        if stdin:
            await self.send(m.Input(1, stdin), m.InputEnd(1))
        events = await self.until(m.JobDone)
        output = {
            stream: b"".join(
                e.data for e in events if isinstance(e, m.Output) and e.stream is stream
            )
            for stream in (m.Stream.STDOUT, m.Stream.STDERR)
        }
        (done,) = (event for event in events if isinstance(event, m.PhaseDone))
        return output, done


@pytest.fixture
def boot(store: ImageStore, progress: Callable[[str], None], tmp_path: Path) -> Boot:
    """Boots a root, with or without the kernel's ``modules``.

    Without ``complete`` its archive lacks the last entry.
    """

    @asynccontextmanager
    async def start(
        root: Tree,
        *,
        port: PortKind = PortKind.VIRTIO,
        modules: bool = True,
        complete: bool = True,
    ) -> AsyncIterator[Guest]:
        kernel = build_kernel(store, progress=progress)
        agent = freeze.freeze_agent(store, "amd64", progress)
        if complete:
            root.add_file(defaults.SENTINEL, b"")
        initrd = tmp_path / "initrd"
        with initrd.open("wb") as file:
            for part in (agent.path, *([kernel.modules_archive] if modules else [])):
                file.write(part.read_bytes())
            write_tree(root, file)
        spec = MachineSpec(
            kernel.path,
            initrd,
            agent.kernel_arguments,
            192 * MIB,
            port=port,
        )
        machine = await QemuHypervisor().start(spec)
        try:
            if port is PortKind.AUTO:
                async with asyncio.timeout(PATIENCE):
                    channel = await wait_for_port(machine)
                yield Guest(machine, channel)
                return
            yield Guest(machine)
        finally:
            await machine.stop()

    return start


@pytest.mark.parametrize("kind", ["debian", "alpine", "strange"])
async def test_shell_script_runs_on_each_root(boot: Boot, roots: Roots, kind: str) -> None:
    async with boot(getattr(roots, kind)()) as guest:
        ready = await guest.hello()
        output, done = await guest.run(("./script",), {"script": SCRIPT}, b"from stdin\n")
        await guest.send(m.Shutdown())
        await guest.wait_end()

    assert {"port.virtio", "cgroup.memory", "cgroup.pids"} <= set(ready.capabilities)
    assert output[m.Stream.STDOUT] == b"user 1000 in /work\nfrom stdin\n"
    # What else is there is of ls; a program does follow the image's own loader configuration.
    assert output[m.Stream.STDERR].endswith(b"oops\n")
    assert (done.verdict, done.code) == (m.Verdict.FAILED, 3)
    assert done.usage.user_us + done.usage.system_us > 0


async def test_clone_gets_an_identity_of_its_own(boot: Boot, roots: Roots) -> None:
    root = roots.alpine()
    for name in ("etc/hosts", "etc/hostname"):
        root.add_file(name, b"of the image\n")
    who = (
        b"#!/bin/sh\ncat /proc/sys/kernel/hostname /etc/hostname /etc/hosts"
        b" /proc/sys/kernel/random/boot_id\n"
        b"echo mine > /etc/hosts || echo mine > /proc/sys/kernel/random/boot_id"
    )

    async with boot(root) as guest:
        await guest.hello()
        told = [(await guest.run(("./who",), {"who": who}))[0]]
        await guest.greet()
        told.append((await guest.run(("./who",), {"who": who}))[0])
        for _ in range(2):
            await guest.greet(clone=True)
            told.append((await guest.run(("./who",), {"who": who}))[0])

    outputs = [output[m.Stream.STDOUT].decode().split() for output in told]
    names = [words[0] for words in outputs]
    assert all(re.fullmatch("slipway-[0-9a-f]{8}", name) for name in names)
    for name, *words, boot_id in outputs:
        assert words == [name, "127.0.0.1", "localhost", name, "::1", "localhost"]
        assert UUID(boot_id).version == 4
    assert outputs[0] == outputs[1]
    assert len(set(names)) == len({words[-1] for words in outputs}) == 3
    assert told[3][m.Stream.STDERR].count(b"Permission denied") == 2


async def test_static_program_runs_on_an_empty_root(boot: Boot, roots: Roots) -> None:
    node = roots.packages("busybox-static").find("bin/busybox")
    assert node is not None
    busybox = node.read(4 * MIB)

    async with boot(roots.empty()) as guest:
        await guest.hello()
        output, done = await guest.run(("./busybox", "ls", "/"), {"busybox": busybox})

    assert done.verdict is m.Verdict.OK
    listed = set(output[m.Stream.STDOUT].decode().split())
    # The kernel itself makes /root.
    assert listed - {"root"} == {"dev", "proc", "sys", "tmp", "var", "work"}


async def test_agent_speaks_over_the_serial_port(boot: Boot, roots: Roots) -> None:
    async with boot(roots.empty(), port=PortKind.SERIAL) as guest:
        ready = await guest.hello()
        _, missing = await guest.run(("sh",), {})

    assert "port.serial" in ready.capabilities
    assert (missing.verdict, missing.code) == (m.Verdict.FAILED, 127)
    assert "no such program" in missing.detail


@pytest.mark.parametrize(("modules", "taken"), [(True, "virtio"), (False, "serial")])
async def test_agent_takes_the_better_port_that_has_a_driver(
    boot: Boot, roots: Roots, modules: bool, taken: str
) -> None:
    async with boot(roots.empty(), port=PortKind.AUTO, modules=modules) as guest:
        ready = await guest.hello()
        _, missing = await guest.run(("sh",), {})

    assert guest.machine.port == taken
    assert f"port.{taken}" in ready.capabilities
    assert missing.code == 127


async def test_truncated_image_is_a_fatal_fault(boot: Boot, roots: Roots) -> None:
    async with boot(roots.empty(), complete=False) as guest:
        fault = (await guest.until(m.Fault))[-1]
        await guest.wait_end()

    assert isinstance(fault, m.Fault)
    assert fault.fatal
    assert "incomplete" in fault.text
