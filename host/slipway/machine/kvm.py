"""The kvm machine: Slipway's own VMM, in a process of its own for each VM."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._errors import HostError, InputError, SlipwayError
from slipway._text import plain
from slipway.machine.child import ChildMachine, open_pair
from slipway.machine.console import Console
from slipway.machine.kernel_arguments import command_line
from slipway.machine.process import Process
from slipway.vmm import arch, control
from slipway.vmm.kvm import usability

if TYPE_CHECKING:
    from slipway.machine.model import MachineSpec

# A host that is so loaded that this is not enough could not run the guest either.
START_SECONDS = 60.0
ANSWER_SECONDS = 30.0

# -I and -S: nothing of the user's and of the site's is imported; so what is needed has to be named.
_PROGRAM = "import sys; sys.path[:0] = sys.argv[1:2]; from slipway.vmm.process import main; main()"
_PACKAGES = str(Path(__file__).parents[2])


class KvmMachine(ChildMachine):
    """A VMM's process, and the channel to control it."""

    name = "kvm"

    def __init__(self, process: Process, channel: socket.socket, console: Console) -> None:
        super().__init__(process, console)
        self._channel = channel
        self._answers: dict[str, asyncio.Future[dict[str, str]]] = {}
        self._asking = asyncio.Lock()
        self._words = ""
        # CPU time that the VMM took from its start to the first KVM_RUN, in seconds.
        self.start_cpu_seconds = 0.0

    @classmethod
    def check(cls, state: Path) -> None:
        """Check that KVM can be used; see :meth:`slipway.machine.Machine.check`."""
        usable, reason = usability.examine(state)
        if not usable:
            raise HostError(
                f"KVM cannot be used here: {reason}",
                "Use the machine qemu, or auto; 'slipway doctor' tells what this host can do.",
            )

    @classmethod
    async def start(cls, spec: MachineSpec) -> KvmMachine:
        """Start a VMM; see :meth:`slipway.machine.Machine.start`.

        Raises:
            InputError: the kernel is none, or what boots does not fit into the memory.
            HostError: this host cannot run it.
        """
        cls.check(spec.state)
        with ExitStack() as ours:
            with ExitStack() as theirs:
                channel, channel_fd = open_pair(control.pair, ours, theirs)
                agent, agent_fd = open_pair(socket.socketpair, ours, theirs)
                console, console_fd = open_pair(socket.socketpair, ours, theirs)
                fds = (channel_fd, agent_fd, console_fd)
                numbers = map(str, (os.getpid(), *fds))
                argv = [sys.executable, "-IS", "-c", _PROGRAM, _PACKAGES, *numbers]
                # It guards itself: two programs less to execute.
                process = Process.start(argv, pass_fds=fds, guarded=False)
            machine = cls(process, channel, Console(echo=spec.boot_log))
            try:
                channel.setblocking(False)
                await machine.connect(agent, console)
                await machine._begin(spec)
            except BaseException:  # cancelled, perhaps, and nobody else knows of the process yet
                await machine.stop()
                raise
            ours.pop_all()
        return machine

    async def _begin(self, spec: MachineSpec) -> None:
        """Tell the VMM what to boot, and wait until it does."""
        started = self._expect(control.RUNNING)
        asyncio.get_running_loop().add_reader(self._channel, self._hear)
        message = control.encode(
            control.START,
            kernel=os.fspath(spec.kernel),
            initramfs=os.fspath(spec.initrd),
            memory=str(spec.memory_bytes),
            command_line=command_line(spec, arch.of_host().KERNEL_ARGUMENTS),
            cpus=str(spec.cpus),
            virtio=str(int(not spec.serial_port)),
        )
        if len(message) >= control.MAX_MESSAGE:
            raise InputError("the kernel's command line is too long")
        with suppress(OSError):  # a VMM that is gone is heard of
            self._channel.send(message)
        texts = await self._answer(started, START_SECONDS)
        cpu = texts.get("cpu_us", "")
        self.start_cpu_seconds = int(cpu) / 1e6 if cpu.isdecimal() and len(cpu) < 16 else 0.0

    def _expect(self, verb: str) -> asyncio.Future[dict[str, str]]:
        future: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._answers[verb] = future
        return future

    async def _answer(
        self, future: asyncio.Future[dict[str, str]], seconds: float
    ) -> dict[str, str]:
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            raise HostError(f"the VMM did not answer within {seconds:g} s") from None
        except EOFError:
            words = await self._process.last_words()
            raise HostError(f"the VMM ended before it answered: {words or 'silently'}") from None

    def _hear(self) -> None:
        """One message of the VMM's, or its end."""
        try:
            message = self._channel.recv(control.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        verb, texts = control.decode(message)
        if verb in self._answers:
            future = self._answers.pop(verb)
            if not future.done():
                future.set_result(texts)
        elif verb == control.FAILED:
            kind = InputError if texts.get("kind") == "input" else HostError
            self._fail(kind(plain(texts.get("message", "")), plain(texts.get("hint", ""))))
        elif verb == control.ENDED:
            if texts.get("wanted") != "1":
                lines = texts.get("text", "").split("\n")
                self._words = "\n  ".join(plain(line) for line in lines)
        elif not message:
            self._hang_up()

    def _hang_up(self) -> None:
        """Hear no more; a VMM that is still there ends by that."""
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
        self._fail(EOFError())

    def _fail(self, error: SlipwayError | EOFError) -> None:
        for future in self._answers.values():
            if not future.done():
                future.set_exception(error)
        self._answers.clear()

    async def _ask(self, verb: str, answer: str) -> dict[str, str]:
        async with self._asking:  # an answer does not say which question it is for
            try:
                self._channel.send(control.encode(verb))
            except OSError:
                raise HostError("the VMM has ended") from None
            return await self._answer(self._expect(answer), ANSWER_SECONDS)

    async def pause(self) -> None:
        """Stop the vCPUs between two instructions."""
        await self._ask(control.PAUSE, control.PAUSED)

    async def resume(self) -> None:
        """Let the vCPUs go on."""
        await self._ask(control.RESUME, control.RESUMED)

    async def exits(self) -> list[str]:
        """How often the guest came out to the VMM, and what for; the most frequent first."""
        told = (await self._ask(control.REPORT, control.REPORT)).get("exits", "")
        return [plain(line) for line in told.split("\n")]

    async def last_words(self) -> str:
        """Why the VM ended, unless the guest asked for it; while it runs, what it does."""
        complaint = await super().last_words()
        if self._words or complaint:
            return self._words or complaint
        try:
            total, *places = await self.exits()
        except HostError:
            return ""
        return f"it goes on: {total}; most often {', '.join(places[:3])}"

    async def stop(self) -> None:
        """Kill the VMM and close its sockets."""
        await self._process.kill()
        self._hang_up()
        await super().stop()
