"""A server from its start to its end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvicorn

from slipway._model.options import MIB
from slipway._server.http.app import create_app
from slipway._server.http.connection import MAX_HEAD, Connection, Gate, GatedConfig, Pace
from slipway._server.http.metrics import Metrics
from slipway._server.http.request_bodies import Bodies
from slipway._server.http.request_context import Service
from slipway._server.kept.kept_runs import KeptRuns
from slipway._server.kept.kept_sessions import Sessions
from slipway._server.kept.retention import Patience, Place
from slipway._server.run_directory import RunDirectory
from slipway._server.socket_access import Access

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from slipway._local.runtime import AsyncRuntime
    from slipway._server.peers import AllowList
    from slipway._server.systemd import Notifier

log = logging.getLogger("slipway.api")

BACKLOG = 2048
# Connections taken in one turn of the event loop. asyncio has one number for this and the backlog,
# and where descriptors have run out it complains and sets a timer that many times.
ACCEPTS = 16
MAX_CONNECTIONS = 4096
# Seconds for responses that are under way when all runs have ended.
RESPONSE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is told by whoever starts it. Times in seconds, sizes in bytes.

    ``run_directory`` None is beside the socket; ``drain`` is how long runs may go on at the end;
    ``descriptors`` is how many files this process may have open; ``sessions`` how many sessions
    may be open, None as many as machines.
    """

    api_socket: Path
    allowed: AllowList
    run_directory: Path | None = None
    access: Access = field(default_factory=Access)
    patience: Patience = field(default_factory=Patience)
    pace: Pace = field(default_factory=Pace)
    body_limit: int = 64 * MIB
    drain: float = 30.0
    descriptors: int = 1024
    sessions: int | None = None


class Server:
    """Serves ``runtime`` on a Unix socket."""

    def __init__(self, settings: Settings, runtime: AsyncRuntime, notify: Notifier) -> None:
        self._settings = settings
        self._runtime = runtime
        self._notify = notify
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Take no more runs, and end when those that there are have ended; if told again, at once.

        Those that last longer than the settings' ``drain`` are cancelled.
        """
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def serve(self, inherited: socket.socket | None = None) -> None:
        """Serve until :meth:`stop`; then nothing of it is left.

        ``inherited`` is a socket that listens already, and whose path is another's to remove.

        Raises:
            InputError: the path cannot be that of a socket.
            HostError: another server uses it, or it cannot be made.
        """
        settings = self._settings
        paths = RunDirectory(settings.api_socket, settings.run_directory, settings.access)
        with paths:
            listener = inherited or paths.listen(BACKLOG)
            place = Place(paths.path, settings.access, settings.allowed)
            runs = KeptRuns(place, settings.patience)
            sessions = Sessions(settings.allowed, settings.sessions)
            metrics = Metrics(
                lambda: self._runtime.load, lambda: len(sessions), lambda: self._runtime.idle
            )
            bodies = Bodies(settings.pace)
            service = Service(self._runtime, runs, sessions, metrics, bodies, settings.body_limit)
            http = _Http(self._config(service))
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            watching = asyncio.create_task(self._feed_watchdog())
            try:
                await _first_of(serving, http.listening.wait())
                self._runtime.begin()
                self.ready.set()
                self._notify("READY=1", f"STATUS=Listening on {paths.api_socket}")
                log.info("listening on %s", paths.api_socket)
                await _first_of(serving, self._stopping.wait())
                service.draining = True
                self._notify("STOPPING=1", "STATUS=Waiting for runs to end")
                log.info("ending: no new runs, and %g s for those that there are", settings.drain)
                await _first_of(self._drain(runs), self._hurrying.wait())
            finally:
                watching.cancel()
                await self._runtime.aclose()
                await runs.close()
                http.should_exit = True
                http.force_exit = self._hurrying.is_set()
                await asyncio.gather(serving, watching, return_exceptions=True)
                http.drop_all()
                listener.close()

    def _config(self, service: Service) -> GatedConfig:
        # Machines and output sockets need descriptors as well.
        connections = min(MAX_CONNECTIONS, self._settings.descriptors // 2)
        gate = Gate(self._settings.allowed, connections, self._settings.pace)
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


class _Http(uvicorn.Server):
    """uvicorn's server, which says when it listens, and leaves signals to us."""

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)
        self.listening.set()

    def drop_all(self) -> None:
        """Close the connections of clients that did not take their answers."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them as they are."""
        yield


async def _first_of(*waiting: Awaitable[object]) -> None:
    """Wait for one of them, and raise its error; the others are cancelled, if they are no tasks."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    started = [task for task, one in zip(tasks, waiting, strict=True) if task is not one]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in started:
            task.cancel()
        await asyncio.gather(*started, return_exceptions=True)
