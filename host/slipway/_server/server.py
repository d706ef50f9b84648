"""Server from its start to its end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from slipway._server.http.app import create_app
from slipway._server.http.connection import MAX_HEAD, Connection, Gate, GatedConfig, Pace
from slipway._server.http.connection_table import ConnectionTable
from slipway._server.http.metrics import Metrics
from slipway._server.http.request_bodies import BodyReader
from slipway._server.http.request_context import Service
from slipway._server.kept.kept_runs import KeptRuns
from slipway._server.kept.kept_sessions import KeptSessions
from slipway._server.kept.retention import OutputSockets
from slipway._server.run_directory import RunDirectory

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Iterator

    from slipway._local.runtime import AsyncRuntime
    from slipway._server.settings import ServerSettings
    from slipway._server.systemd import Notifier

log = logging.getLogger("slipway.api")

BACKLOG = 2048
# Connections accepted in one iteration of the event loop. asyncio uses one number for this and for
# the backlog, and logs an error and sets a timer this many times when no descriptors are left.
ACCEPTS = 16
MAX_CONNECTIONS = 4096
# Seconds for responses to be sent after all runs have ended.
RESPONSE_SECONDS = 5


class Server:
    """HTTP server of ``runtime`` on a Unix socket."""

    def __init__(self, settings: ServerSettings, runtime: AsyncRuntime, notify: Notifier) -> None:
        self._settings = settings
        self._pace = settings.pace or Pace()
        self._runtime = runtime
        self._notify = notify
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Refuse new runs, and end when all runs have ended; at the second call, end at once.

        Runs that last longer than the settings' ``drain`` are cancelled.
        """
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def serve(self, inherited: socket.socket | None = None) -> None:
        """Serve until :meth:`stop`; then remove all sockets and directories.

        ``inherited`` is a listening socket, whose path is removed by its creator.

        Raises:
            InputError: the path is too long, or has a file of another kind.
            HostError: another server uses the path, or it cannot be created.
        """
        settings = self._settings
        paths = RunDirectory(settings.api_socket, settings.run_directory, settings.access)
        with paths:
            listener = inherited or paths.listen(BACKLOG)
            sockets = OutputSockets(paths.path, settings.access, settings.allowed)
            runs = KeptRuns(sockets, settings.timeouts, settings.kept)
            sessions = KeptSessions(settings.allowed, settings.sessions)
            bodies = BodyReader(self._pace, settings.body_budget)
            connections = ConnectionTable(self._find_most_connections())
            metrics = Metrics(
                lambda: self._runtime.load,
                lambda: len(sessions),
                lambda: self._runtime.idle,
                {
                    "connections": connections.holdings,
                    "body_bytes": bodies.holdings,
                    "kept_runs": runs.ended,
                    "kept_bytes": runs.kept,
                    **self._runtime.shared,
                },
            )
            service = Service(
                self._runtime,
                runs,
                sessions,
                metrics,
                bodies,
                settings.body_limit,
                ceiling=settings.ceiling,
            )
            http = _HttpServer(self._configure(service, connections))
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            watching = asyncio.create_task(self._feed_watchdog())
            try:
                await _wait_first(serving, http.listening.wait())
                self._runtime.begin()
                self.ready.set()
                self._notify("READY=1", f"STATUS=Listening on {paths.api_socket}")
                log.info("listening on %s", paths.api_socket)
                await _wait_first(serving, self._stopping.wait())
                service.draining = True
                self._notify("STOPPING=1", "STATUS=Waiting for runs to end")
                log.info("shutting down: no new runs, current runs have %g s", settings.drain)
                await _wait_first(self._drain(runs), self._hurrying.wait())
            finally:
                watching.cancel()
                await self._runtime.aclose()
                await runs.close()
                http.should_exit = True
                http.force_exit = self._hurrying.is_set()
                await asyncio.gather(serving, watching, return_exceptions=True)
                http.close_connections()
                listener.close()

    def _find_most_connections(self) -> int:
        # The other half is for machines and output sockets.
        most = min(MAX_CONNECTIONS, self._settings.descriptors // 2)
        return min(most, self._settings.connections or most)

    def _configure(self, service: Service, connections: ConnectionTable) -> GatedConfig:
        gate = Gate(self._settings.allowed, connections, self._pace)
        config = GatedConfig(
            create_app(service),
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=ACCEPTS,
            timeout_keep_alive=gate.pace.idle,
            timeout_graceful_shutdown=RESPONSE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEAD,
        )
        config.gate = gate
        return config

    async def _drain(self, runs: KeptRuns) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.drain
        await self._runtime.drain(self._settings.drain)
        await runs.drain(max(0.0, deadline - clock()))

    async def _feed_watchdog(self) -> None:
        while (seconds := self._notify.watchdog_seconds) is not None:
            self._notify("WATCHDOG=1")
            await asyncio.sleep(seconds)


class _HttpServer(uvicorn.Server):
    """uvicorn's server, with an event for the moment that it listens, and no signal handlers."""

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with our own backlog."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
        self.listening.set()

    def close_connections(self) -> None:
        """Close the connections of clients that have not read their responses."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller of the server."""
        yield


async def _wait_first(*waiting: Awaitable[object]) -> None:
    """Wait for the first of ``waiting``, and raise its error; cancel all others except tasks."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in waiting]
    started = [
        task for task, awaitable in zip(tasks, waiting, strict=True) if task is not awaitable
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)
