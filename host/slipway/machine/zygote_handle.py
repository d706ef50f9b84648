"""Zygote as its parent sees it: requests of children, and their ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING

from slipway._util.errors import HostError, NoAnswer
from slipway._util.text import to_plain_line
from slipway.machine.child import ANSWER_SECONDS, START_SECONDS, open_pair
from slipway.machine.module_command import build_module_command
from slipway.machine.process import HINTS, ChildProcess
from slipway.machine.zygote_child import ZygoteChild
from slipway.vmm.process import control

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

_ENDED = "the process that starts machines has ended"


class ZygoteHandle:
    """Process of a zygote, the channel to it, and its children."""

    def __init__(self, process: ChildProcess, channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        # Reason why each request will fail; empty if it may succeed.
        self.refusal = ""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Waiting callers, in the order of their requests, each with the pipe of its child's stderr.
        self._requests: deque[tuple[asyncio.Future[ZygoteChild], int]] = deque()
        self._children: dict[int, ZygoteChild] = {}
        self._closed = self._dead = False
        self._ending: asyncio.Task[None] | None = None
        self._killing: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, module: str, files: Sequence[int] = ()) -> Self:
        """Start a zygote, and wait until it is ready.

        ``module`` is that of its process, which inherits copies of the descriptors ``files``.

        Raises:
            HostError: the zygote cannot be started, or refuses the files.
        """
        async with AsyncExitStack() as undo:
            zygote = cls.launch(undo, module, files)
            await zygote.wait_ready()
            undo.pop_all()
        return zygote

    @classmethod
    def launch(
        cls,
        undo: AsyncExitStack,
        module: str,
        files: Sequence[int],
        arguments: Sequence[str] = (),
        inherited: Sequence[int] = (),
    ) -> Self:
        """Start a zygote, which ``undo`` ends; call :meth:`wait_ready`.

        The numbers of ``files`` are arguments of the module, and ``arguments`` follow; the process
        inherits both ``files`` and ``inherited``.

        Raises:
            HostError: the zygote cannot be started.
        """
        with ExitStack() as theirs:
            channel, channel_fd = open_pair(control.create_pair, undo, theirs)
            numbers = (channel_fd, *files)
            command = [*build_module_command(module, numbers), *arguments]
            process = ChildProcess.start(command, pass_fds=(*numbers, *inherited), guarded=False)
        zygote = cls(process, channel)
        undo.push_async_callback(zygote._end)
        channel.setblocking(False)
        asyncio.get_running_loop().add_reader(channel, zygote._on_readable)
        return zygote

    @property
    def pid(self) -> int:
        """The id of the zygote's process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """True after the end of the process."""
        return self._dead

    async def wait_ready(self) -> None:
        """Wait until the zygote can make children.

        Raises:
            HostError: it cannot, it has ended, or it does not answer in time.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise NoAnswer(f"the zygote did not answer within {START_SECONDS:g} s") from None
        except EOFError:
            words = await self._process.read_stderr()
            raise HostError(
                f"the zygote ended before it answered: {words or 'no message'}"
            ) from None

    def send(self, verb: str, **texts: str) -> None:
        """Send a message that requests no child.

        Raises:
            HostError: the zygote has ended.
        """
        try:
            self._channel.send(control.encode(verb, **texts))
        except OSError:
            raise HostError(_ENDED) from None

    async def spawn(self, descriptors: Sequence[int], group: int = -1) -> ZygoteChild:
        """Request a child with copies of ``descriptors``, and return it.

        The descriptors are its control channel, the console, and the other sockets of its machine.
        The child is born in the cgroup whose descriptor is ``group``, or in the zygote's.

        Raises:
            HostError: the child cannot be forked.
        """
        if self._dead:
            raise HostError(_ENDED)
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            hint = HINTS.get(error.errno or 0, "")
            raise HostError(f"cannot start a machine: {error.strerror}", hint) from None
        asked: asyncio.Future[ZygoteChild] = asyncio.get_running_loop().create_future()
        try:
            groups = [group] if group >= 0 else []
            message = control.encode(control.SPAWN, groups=str(len(groups)))
            socket.send_fds(self._channel, [message], [*groups, *descriptors, writer])
        except OSError as error:
            os.close(reader)
            hint = HINTS.get(error.errno or 0, "")
            raise HostError(f"cannot request a machine: {error.strerror}", hint) from None
        finally:
            os.close(writer)
        self._requests.append((asked, reader))
        return await self._wait_for_child(asked)

    async def wait_first_child(self, errors: int) -> ZygoteChild:
        """Return the child that the zygote makes unasked; ``errors`` is the pipe of its stderr.

        Takes over ``errors``.

        Raises:
            HostError: the child cannot be made.
        """
        asked: asyncio.Future[ZygoteChild] = asyncio.get_running_loop().create_future()
        self._requests.append((asked, errors))
        return await self._wait_for_child(asked)

    async def _wait_for_child(self, asked: asyncio.Future[ZygoteChild]) -> ZygoteChild:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                try:
                    return await asyncio.shield(asked)
                except asyncio.CancelledError:  # the requested child comes all the same
                    with suppress(HostError):
                        await (await asked).kill()
                    raise
        except TimeoutError:
            raise NoAnswer(f"no machine was forked within {ANSWER_SECONDS:g} s") from None

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
        if verb == control.SPAWNED and descriptors:
            self._adopt_child(number, descriptors[0])
        elif verb == control.EXITED and number in self._children:
            self._children[number].set_exit_status(int(texts["code"]))
        elif verb == control.RUNNING:
            if not self._ready.done():
                self._ready.set_result(None)
        elif verb in {control.REFUSED, control.FAILED}:
            why, hint = (to_plain_line(texts.get(name, "")) for name in ("message", "hint"))
            if verb == control.FAILED:
                self.refusal = why
            self._fail_request(HostError(why, hint))
        elif not message:
            self._on_ended()

    def _adopt_child(self, number: int, pidfd: int) -> None:
        asked, errors = self._requests.popleft()
        process = ZygoteChild(number, pidfd, errors, self)
        self._children[number] = process
        if asked.done():  # its caller was cancelled
            self._killing.add(task := asyncio.ensure_future(process.kill()))
            task.add_done_callback(self._killing.discard)
        else:
            asked.set_result(process)

    def _fail_request(self, error: HostError) -> None:
        """Report that the first request fails, or without one that the zygote cannot start."""
        if self._requests:
            asked, errors = self._requests.popleft()
            os.close(errors)
            if not asked.done():
                asked.set_exception(error)
        elif not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # the caller may have been cancelled

    def _on_ended(self) -> None:
        """Report the end of the zygote, by which the kernel kills its children."""
        self._dead = True
        self._close_channel()
        if not self._ready.done():
            self._ready.set_exception(EOFError())
            self._ready.exception()
        while self._requests:
            self._fail_request(HostError(_ENDED))
        for process in list(self._children.values()):
            process.on_parent_lost()

    def _close_channel(self) -> None:
        if self._channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()

    def on_child_ended(self, process: ZygoteChild) -> None:
        """Forget a child that has ended; the last may end the zygote."""
        self._children.pop(process.pid, None)
        if self._closed and not self._children and self._ending is None:
            self._ending = asyncio.ensure_future(self._end())

    async def wait_settled(self) -> None:
        """Wait for the end of the zygote, if that has begun."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _end(self) -> None:
        await self._process.kill()
        self._on_ended()

    async def close(self) -> None:
        """Request no more children. May be called again.

        The zygote stays as long as it has children, and ends by itself after the last.
        """
        self._closed = True
        with suppress(OSError):
            self._channel.send(control.encode(control.CLOSE))
        if not self._children and not self._requests:
            await self._end()
