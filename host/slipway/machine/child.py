"""Common part of machines that are a child process with sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from slipway._util.errors import HostError, InputError
from slipway._util.text import to_plain_line
from slipway._util.threads import run_shielded
from slipway.machine.model import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AsyncExitStack
    from typing import Self

    from slipway._model.host_use import HostUse
    from slipway._util.errors import SlipwayError
    from slipway.machine.console import Console
    from slipway.machine.host_limits import HostLimits
    from slipway.machine.model import Hypervisor, PortKind
    from slipway.machine.process import ChildProcess

# For a process of ours to start, and to answer. A host under so much load that this is too short
# could not run the guest either.
START_SECONDS = 60.0
ANSWER_SECONDS = 30.0


def open_pair(
    make: Callable[[], tuple[socket.socket, socket.socket]],
    ours: ExitStack | AsyncExitStack,
    theirs: ExitStack,
) -> tuple[socket.socket, int]:
    """Return our end of a new pair of sockets, and the descriptor of the other end.

    Each end is closed by its stack.

    Raises:
        HostError: this process has too many descriptors.
    """
    try:
        end, other = make()
    except OSError as error:
        raise HostError(
            f"cannot make sockets for the machine: {error.strerror}",
            "Raise the limit of open files (ulimit -n).",
        ) from None
    return ours.enter_context(end), theirs.enter_context(other).fileno()


def open_unplugged_link(cleanup: ExitStack) -> int:
    """Return the descriptor of a machine's end of a network link whose other end is closed.

    For a machine that has a network interface, and no gateway yet: a template, or its trial clone.
    ``cleanup`` closes the descriptor.

    Raises:
        HostError: this process has too many descriptors.
    """

    def make() -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    with ExitStack() as closing:
        _, descriptor = open_pair(make, closing, cleanup)
    return descriptor


def build_error(texts: dict[str, str]) -> SlipwayError:
    """Return the error that a process of a machine has reported; its texts may have any content."""
    kind = InputError if texts.get("kind") == "input" else HostError
    return kind(to_plain_line(texts.get("message", "")), to_plain_line(texts.get("hint", "")))


class ChildMachine:
    """Process of a machine, with its console and the stream to the agent."""

    def __init__(
        self,
        process: ChildProcess,
        console: Console,
        hypervisor: Hypervisor,
        port: PortKind,
        limits: HostLimits | None = None,
    ) -> None:
        """Take over the process, and its limits on the host."""
        self._process = process
        self.limits = limits
        self._transport: Transport | None = None
        # The port of the agent; AUTO before the agent has taken one.
        self.port = port
        # Streams of devices of which the agent is to take one.
        self.streams: dict[PortKind, Transport] = {}
        self.console = console
        self.hypervisor = hypervisor

    async def connect(
        self, agents: Mapping[PortKind, socket.socket], console: socket.socket
    ) -> None:
        """Take over our ends of the sockets; an error leaves sockets and process as they are.

        ``agents`` are the sockets of the devices of the port. There is none if that is TCP:
        :meth:`use_stream` follows.
        """
        for kind, agent in agents.items():
            self.streams[kind] = Transport(*await asyncio.open_connection(sock=agent))
        if self.port in self.streams:
            await self.take_port(self.port)
        self.console.attach(*await asyncio.open_connection(sock=console))

    async def use_stream(self, agent: socket.socket) -> None:
        """Take over the stream to the agent; see :meth:`slipway.machine.model.Machine`."""
        await self._close_transport()
        self._transport = Transport(*await asyncio.open_connection(sock=agent))

    async def take_port(self, port: PortKind) -> None:
        """Have ``port`` as the agent's; see :meth:`slipway.machine.model.Machine.take_port`."""
        self.port = port
        self._transport = self.streams.pop(port)
        await self._close_streams()

    @property
    def transport(self) -> Transport:
        """The stream to the agent."""
        assert self._transport is not None
        return self._transport

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """True after the end of the process."""
        return self._process.has_ended

    async def wait(self) -> int:
        """Wait for the end of the process; return its exit status, negative for a signal."""
        return await self._process.wait()

    async def read_exit_report(self) -> str:
        """Return the text that the process wrote to stderr before its end; empty while it runs."""
        return await self._process.read_stderr()

    def read_use(self) -> HostUse | None:
        """Return the use of the host; see :meth:`slipway.machine.model.Machine.read_use`."""
        return None if self.limits is None else self.limits.read_use()

    def describe_loss(self) -> tuple[str, str] | None:
        """Return why the host ended the machine; see :class:`slipway.machine.model.Machine`."""
        return None if self.limits is None else self.limits.describe_loss()

    async def adopt_gateway(self, process: int) -> None:
        """Put a gateway under the limits; see :class:`slipway.machine.model.Machine`."""
        if self.limits is not None:
            await self.limits.adopt_gateway(process)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await run_shielded(self.stop())

    async def stop(self) -> None:
        """Kill the process, close the sockets, and remove the cgroup."""
        await self._process.kill()
        if self.limits is not None:
            await self.limits.close()
        await self.console.close()
        await self._close_transport()
        await self._close_streams()

    async def _close_transport(self) -> None:
        if self._transport is not None:
            await _close_stream(self._transport)

    async def _close_streams(self) -> None:
        while self.streams:
            await _close_stream(self.streams.popitem()[1])


async def _close_stream(stream: Transport) -> None:
    stream.writer.transport.abort()  # unsent bytes have no receiver any more
    with suppress(OSError):  # the machine may have gone first
        await stream.writer.wait_closed()
