"""The agent's end of a session, played by a test: says what it is told to, true or not."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, TypeVar

from slipway._run.agent_connection import AgentConnection
from slipway._run.deadline_pause import DeadlinePause
from slipway.machine.console import Console
from slipway.machine.model import PortKind, Transport
from slipway_protocol.connection import Connection
from slipway_protocol.messages import Awake, Ready, Start
from slipway_protocol.schema import VERSION
from support.listening import pump_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from slipway._model.input_file import InputFile
    from slipway._run.job_report import JobReport
    from slipway_protocol.messages import Job, Message
    from support.listening import Listen

    Script = Callable[["ScriptedAgent"], Awaitable[None]]

READY = Ready(VERSION, "1", (), "6.1", 1, 1, 1, 1)

_Kind = TypeVar("_Kind", bound="Message")


class ScriptedAgent:
    """Reads what the host sends and writes whatever the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = Connection.agent()
        self.heard: list[object] = []
        self._read = 0

    async def say(self, *messages: Message) -> None:
        """Send ``messages``."""
        await self.write(b"".join(self._connection.send(message) for message in messages))

    async def write(self, data: bytes) -> None:
        """Send bytes that need not be a frame."""
        self._writer.write(data)
        await self._writer.drain()

    async def hear(self, kind: type[_Kind]) -> _Kind:
        """The next message of this kind; those before it are in ``heard``."""
        while True:
            while self._read < len(self.heard):
                message = self.heard[self._read]
                self._read += 1
                if isinstance(message, kind):
                    return message
            data = await self._reader.read(65536)
            assert data, f"the host left without a {kind.__name__}"
            self.heard += self._connection.receive(data)

    async def hang_up(self) -> None:
        """End of file for the host, after all that was said."""
        self._writer.write_eof()
        await self._writer.drain()

    def drop(self) -> None:
        """Close the line, whatever is still under way."""
        self._writer.transport.abort()


class ScriptedMachine:
    """As much of a machine as a session looks at: a transport in this process."""

    name = "scripted"
    has_network = False
    port = PortKind.VIRTIO

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.streams: dict[PortKind, Transport] = {}
        self.console = Console()

    async def read_exit_report(self) -> str:
        """Nothing."""
        return ""

    def describe_loss(self) -> None:
        """Nothing."""


async def connect() -> tuple[AgentConnection, ScriptedAgent]:
    """A session and the agent that it talks to."""
    ours, theirs = socket.socketpair()
    transport = Transport(*await asyncio.open_connection(sock=ours))
    agent = ScriptedAgent(*await asyncio.open_connection(sock=theirs))
    return AgentConnection(ScriptedMachine(transport)), agent  # type: ignore[arg-type]


async def play(
    script: Script,
    job: Job,
    sink: Listen,
    files: tuple[InputFile, ...] = (),
    stdin: AsyncIterator[bytes] | None = None,
    deadline: asyncio.Timeout | None = None,
    ready: Ready = READY,
) -> JobReport:
    """Run ``job`` against an agent that does ``script`` once the job has been started.

    ``deadline`` stands still while ``sink`` waits.
    """
    session, agent = await connect()

    await agent.say(Awake(VERSION), ready)
    await session.handshake()

    async def act() -> None:
        await agent.hear(Start)
        await script(agent)

    acting = asyncio.create_task(act())
    pump = pump_to(sink)
    paused = DeadlinePause(pump, deadline) if deadline is not None else pump
    running = asyncio.create_task(pump.run(session.run(job, files, paused, stdin)))
    try:
        await asyncio.wait({acting, running}, return_when=asyncio.FIRST_EXCEPTION)
        if acting.done() and not running.done():
            acting.result()  # the test's own error, if it has one
        return await running
    finally:
        for task in (acting, running):
            task.cancel()
        await asyncio.gather(acting, running, return_exceptions=True)
        agent.drop()
        await session.close()
