"""Template of the hypervisor ``kvm``: a zygote, whose children are the clones."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway._util.text import to_plain_line
from slipway.machine.child import open_pair, open_unplugged_link
from slipway.machine.cloned_process import ClonedProcess
from slipway.machine.kvm import ANSWER_SECONDS, START_SECONDS, KvmMachine
from slipway.machine.kvm_parts import VmmSockets
from slipway.machine.model import Template
from slipway.machine.process import ChildProcess, build_module_command
from slipway.vmm.process import control
from slipway.vmm.snapshot import state_file as states
from slipway.vmm.spec import VmConfig

if TYPE_CHECKING:
    from slipway.machine.model import Hypervisor, Snapshot

_AGAIN = "Make the template again."


class KvmTemplate(Template):
    """Process of a zygote, the channel to it, and its children."""

    def __init__(
        self,
        process: ChildProcess,
        channel: socket.socket,
        snapshot: Snapshot,
        hypervisor: Hypervisor,
    ) -> None:
        self._process = process
        self._hypervisor = hypervisor
        self._channel = channel
        self._config = _find_config(snapshot)
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Waiting callers, in the order of their requests, each with the pipe of its clone's stderr.
        self._requests: deque[tuple[asyncio.Future[ClonedProcess], int]] = deque()
        self._clones: dict[int, ClonedProcess] = {}
        self._closed = self._dead = False
        self._ending: asyncio.Task[None] | None = None
        self._killing: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, snapshot: Snapshot, hypervisor: Hypervisor) -> KvmTemplate:
        """Start a zygote; see :meth:`slipway.machine.model.Hypervisor.open_template`.

        Raises:
            HostError: the snapshot cannot be used.
        """
        with snapshot:
            _check_snapshot(snapshot, hypervisor)
            async with AsyncExitStack() as undo:
                with ExitStack() as theirs:
                    channel, channel_fd = open_pair(control.create_pair, undo, theirs)
                    inherited = (channel_fd, snapshot.memory, snapshot.state)
                    command = build_module_command("slipway.vmm.process.zygote", inherited)
                    process = ChildProcess.start(command, pass_fds=inherited, guarded=False)
                template = cls(process, channel, snapshot, hypervisor)
                undo.push_async_callback(template._end_zygote)
                await template._wait_ready()
                undo.pop_all()
        return template

    @property
    def pid(self) -> int:
        """The id of the zygote's process."""
        return self._process.pid

    async def _wait_ready(self) -> None:
        self._channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self._channel, self._on_readable)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._ready
        except TimeoutError:
            raise HostError(f"the zygote did not answer within {START_SECONDS:g} s") from None
        except EOFError:
            words = await self._process.read_stderr()
            raise HostError(
                f"the zygote ended before it answered: {words or 'no message'}"
            ) from None

    async def clone(self, *, boot_log: bool = False, network: int | None = None) -> KvmMachine:
        """Request a child, and wait until its VM runs; see :meth:`Template.clone`.

        Raises:
            HostError: the child cannot be forked, or cannot restore the snapshot.
        """
        self._check_open()
        with ExitStack() as ours:
            with ExitStack() as theirs:
                sockets = VmmSockets.open(self._config.port, ours, theirs)
                given = list(sockets.theirs)
                if self._config.network:
                    given.append(open_unplugged_link(theirs) if network is None else network)
                try:
                    reader, writer = os.pipe2(os.O_CLOEXEC)
                except OSError as error:
                    raise HostError(f"cannot make a clone: {error.strerror}") from None
                theirs.callback(os.close, writer)
                asked = self._request_clone([*given, writer], reader)
            process = await self._wait_for_clone(asked)
            machine = KvmMachine(
                process, sockets.channel, self._config, self._hypervisor, boot_log=boot_log
            )
            await machine.start_vm(sockets)
            ours.pop_all()
        return machine

    def _check_open(self) -> None:
        if self._closed:
            raise HostError("the template is closed")
        if self._dead:
            raise HostError("the process that makes clones has ended", _AGAIN)

    def _request_clone(self, descriptors: list[int], errors: int) -> asyncio.Future[ClonedProcess]:
        """Request a child with copies of ``descriptors``; takes over ``errors``, a pipe."""
        asked: asyncio.Future[ClonedProcess] = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(self._channel, [control.encode(control.CLONE)], descriptors)
        except OSError as error:
            os.close(errors)
            raise HostError(f"cannot request a clone: {error.strerror}") from None
        self._requests.append((asked, errors))
        return asked

    async def _wait_for_clone(self, asked: asyncio.Future[ClonedProcess]) -> ClonedProcess:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                try:
                    return await asyncio.shield(asked)
                except asyncio.CancelledError:  # the requested child comes all the same
                    with suppress(HostError):
                        await (await asked).kill()
                    raise
        except TimeoutError:
            raise HostError(f"no clone was made within {ANSWER_SECONDS:g} s") from None

    def _on_readable(self) -> None:
        """Handle a message of the zygote, or its end."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, control.MAX_MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        verb, texts = control.decode(message)
        number = int(texts.get("process", 0))
        if verb == control.CLONED and descriptors:
            self._adopt_clone(number, descriptors[0])
        elif verb == control.EXITED and number in self._clones:
            self._clones[number].set_exit_status(int(texts["code"]))
        elif verb == control.RUNNING:
            if not self._ready.done():
                self._ready.set_result(None)
        elif verb in {control.REFUSED, control.FAILED}:
            self._fail_request(
                HostError(
                    to_plain_line(texts.get("message", "")), to_plain_line(texts.get("hint", ""))
                )
            )
        elif not message:
            self._on_zygote_ended()

    def _adopt_clone(self, number: int, pidfd: int) -> None:
        asked, errors = self._requests.popleft()
        process = ClonedProcess(number, pidfd, errors, self)
        self._clones[number] = process
        if asked.done():  # its caller was cancelled
            self._killing.add(task := asyncio.ensure_future(process.kill()))
            task.add_done_callback(self._killing.discard)
        else:
            asked.set_result(process)

    def _fail_request(self, error: HostError) -> None:
        """Report that the zygote cannot start, or cannot make the clone of the first request."""
        if not self._ready.done():
            self._ready.set_exception(error)
        elif self._requests:
            asked, errors = self._requests.popleft()
            os.close(errors)
            if not asked.done():
                asked.set_exception(error)

    def _on_zygote_ended(self) -> None:
        """Report the end of the zygote, by which the kernel kills its children."""
        self._dead = True
        self._close_channel()
        if not self._ready.done():
            self._ready.set_exception(EOFError())
        while self._requests:
            self._fail_request(HostError("the process that makes clones has ended", _AGAIN))
        for process in list(self._clones.values()):
            process.on_parent_lost()

    def _close_channel(self) -> None:
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()

    def on_clone_ended(self, process: ClonedProcess) -> None:
        """Forget a child that has ended; the last may end the zygote."""
        self._clones.pop(process.pid, None)
        if self._closed and not self._clones and self._ending is None:
            self._ending = asyncio.ensure_future(self._end_zygote())

    async def wait_settled(self) -> None:
        """Wait for the end of the zygote, if that has begun."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _end_zygote(self) -> None:
        await self._process.kill()
        self._on_zygote_ended()

    async def close(self) -> None:
        """Make no more clones; see :meth:`Template.close`. May be called again.

        The zygote stays as long as it has children, and ends by itself after the last.
        """
        self._closed = True
        with suppress(OSError):
            self._channel.send(control.encode(control.CLOSE))
        if not self._clones and not self._requests:
            await self._end_zygote()


def _find_config(snapshot: Snapshot) -> VmConfig:
    """Return the configuration of the machine of ``snapshot``."""
    return VmConfig(snapshot.memory_bytes, snapshot.cpus, snapshot.port.value, snapshot.network)


def _check_snapshot(snapshot: Snapshot, hypervisor: Hypervisor) -> None:
    """Check that ``snapshot`` is one of this hypervisor, and that its parts fit together.

    Raises:
        HostError: they do not, or its state is damaged.
    """
    snapshot.check_origin(hypervisor)
    saved = states.decode(states.read(snapshot.state))
    if saved.config != _find_config(snapshot):
        raise HostError("the snapshot is damaged: its state is of another machine")
    size = os.fstat(snapshot.memory).st_size
    if size != saved.memory:
        raise HostError(f"the snapshot is damaged: its memory has {size} bytes, not {saved.memory}")
