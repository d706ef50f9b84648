"""Starts through the API keep to a budget of the event loop's tasks and callbacks."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from support.api_server import serve_api
from support.output_clients import connect, read_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STARTS = 40
# One for the request, the run, the release of its machine, its events, and the output that is kept.
TASKS = {
    "RequestResponseCycle.run_asgi": 1,
    "LocalExecution._execute": 1,
    "Slot.release": 1,
    "EventPump.run": 1,
    "KeptRun._keep_output": 1,
}
# An interactive client has a task for its commands, and its program one for stdin.
INTERACTIVE_TASKS = TASKS | {"OutputConnection._carry_out": 1, "JobExchange._send_stdin": 1}
# A start has 59, of which the fake machine has 14; how many events share a turn of the loop varies.
CALLBACKS = 70


class CountingLoop(asyncio.SelectorEventLoop):
    """Event loop that counts tasks, by the name of their function, and callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: Counter[str] = Counter()
        self.callbacks = 0

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Count and create a task."""
        self.tasks[coro.__qualname__] += 1
        return super().create_task(coro, **options)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, **options: Any
    ) -> asyncio.Handle:
        """Count and add a callback."""
        self.callbacks += 1
        return super().call_soon(callback, *args, **options)


class Starter:
    """Client in a thread, with one connection to the API for all starts."""

    def __init__(self, path: Path) -> None:
        self._http = HTTPConnection("localhost")
        self._http.sock = connect(path)

    def start_and_read(self, source: str, query: str, commands: bytes) -> bytes:
        """Start a run, send ``commands`` if any, and read the output to the end."""
        self._http.request("POST", f"/v1/start?language=bash{query}", source)
        answer = json.loads(self._http.getresponse().read())
        client = connect(answer["socket"])
        client.sendall(commands)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def count_starts(
    query: str, source: str = "print hello", commands: bytes = b""
) -> tuple[dict[str, float], float, bytes]:
    """Return tasks and callbacks of the server for a start, without warm-up, and the last output.

    The tasks of the fake machine do not count.
    """

    async def play() -> tuple[dict[str, float], float, bytes]:
        async with serve_api() as api:
            starter = Starter(api.path)

            def start_many(count: int) -> bytes:
                for _ in range(count):
                    output = starter.start_and_read(source, query, commands)
                return output

            try:
                await asyncio.to_thread(start_many, 3)  # connections, caches and imports
                loop.tasks.clear()
                loop.callbacks = 0
                output = await asyncio.to_thread(start_many, STARTS)
            finally:
                starter.close()
            tasks = {
                name: round(count / STARTS, 1)
                for name, count in loop.tasks.items()
                if not name.startswith("Fake")
            }
            return tasks, loop.callbacks / STARTS, output

    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(play())


@pytest.mark.parametrize("stream", ["raw", "events"])
def test_a_start_keeps_to_its_budget(stream: str) -> None:
    tasks, callbacks, output = count_starts(f"&stream={stream}")

    assert b"hello" in output
    assert tasks == TASKS
    assert callbacks <= CALLBACKS


def test_an_interactive_client_costs_two_tasks_more() -> None:
    query = "&stream=events&interactive=true"
    # The run waits for its client: else its output may end before the first command comes.
    commands = b'{"type":"unknown"}\n{"type":"stdin_end"}\n'

    tasks, _, output = count_starts(query, "echo", commands)

    assert b"refused" in output
    assert tasks == INTERACTIVE_TASKS
