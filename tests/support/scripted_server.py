"""Server of the API, played by a test: sends scripted answers, true or not."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from slipway._wire.fields import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType

    Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STARTED = {"id": "run-1", "language": "python", "state": "booting", "position": None}


class ScriptedServer:
    """Server on ``path`` that plays one of ``talks`` on each connection to the output socket.

    ``answers`` are by method and the last part of the target, each a status with an object, or raw
    bytes; others have plain defaults. ``asked`` are the requests so far.
    """

    def __init__(self, directory: Path, *talks: Talk) -> None:
        self.path = directory / "api"
        self.output = directory / "output"
        self.talks = deque(talks)
        self.answers: dict[tuple[str, str], tuple[int, Any] | bytes] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.connections = 0
        self.left = asyncio.Event()
        """Set while nobody is connected to the output socket any more."""
        self.hold = asyncio.Event()
        """Cleared: requests are taken and not answered."""
        self.hold.set()
        self.arrived = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def targets(self) -> list[tuple[str, str]]:
        """Return the received requests."""
        return [(method, target) for method, target, _ in self.asked]

    async def stop(self) -> None:
        """Go away, as a server does that is killed."""
        # A connection that the client has left already is accepted, and has its task, within four
        # turns of the loop. asyncio never closes one that it accepts while its server closes.
        for _ in range(4):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        current = asyncio.current_task()
        others = [task for task in self._tasks if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def __aenter__(self) -> Self:
        for path, serve in ((self.path, self._answer), (self.output, self._talk)):
            server = await asyncio.start_unix_server(self._task(serve), path, limit=MAX_LINE)
            self._servers.append(server)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def _task(self, serve: Talk) -> Talk:
        async def track_task(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await serve(reader, writer)
            finally:
                writer.transport.abort() if writer.is_closing() else writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
                self._tasks.discard(task)

        return track_task

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split(" ", 2)
        fields = dict(
            line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
        )
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        self.asked.append((method, target, json.loads(body) if body else fields))
        self.arrived.set()
        await self.hold.wait()
        answer = self.answers.get((method, target.partition("?")[0].rpartition("/")[2]))
        if answer is None:
            answer = self._default(method, target)
        if isinstance(answer, tuple):
            status, record = answer
            text = b"" if record is None else json.dumps(record).encode()
            answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(text)) + text
        writer.write(answer)
        await writer.drain()

    def _default(self, method: str, target: str) -> tuple[int, Any]:
        if target == "/v1/start":
            return 201, {**STARTED, "socket": str(self.output)}
        if "/resume?offset=" in target:
            return 200, {"socket": str(self.output), "offset": int(target.rpartition("=")[2])}
        return 204, None

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.left.clear()
        try:
            if self.talks:
                await self.talks.popleft()(reader, writer)
        finally:
            self.left.set()


def saying(data: bytes) -> Talk:
    """Say ``data`` and hang up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return talk


def listening(data: bytes) -> Talk:
    """Say ``data`` and wait until the client hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        while await reader.read(65536):
            pass

    return talk
