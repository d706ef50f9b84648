"""Handle of a run on a server."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from slipway._model.events import Event, Output
from slipway._model.execution import AsyncExecution, check_signal
from slipway._model.options import Tty
from slipway._remote.line_socket import LineSocket
from slipway._remote.problems import UnknownRun
from slipway._remote.run_stream import MAX_LATE_BYTES, STDIN_END, RunStream, encode_stdin
from slipway._util.errors import HostError, InputError, SlipwayError, UnknownOutcome
from slipway._wire.errors import make_protocol_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from slipway._model.options import Options
    from slipway._remote.api_client import ApiClient


class RemoteExecution(AsyncExecution):
    """Handle of the run in ``answer``, the server's reply to ``POST /v1/start``.

    Raises:
        UnknownOutcome: the answer is invalid.
    """

    def __init__(self, api: ApiClient, answer: object, options: Options) -> None:
        self._stream = RunStream(api.path, answer, options)
        run = self._stream.started
        super().__init__(run.id, run.language)
        self._state, self._position = run.state, run.position
        self._api = api
        self._has_terminal = bool(options.tty)
        self._socket: LineSocket | None = None
        # Events and the error that arrived during a cancellation.
        self._late: deque[Event | SlipwayError] = deque()
        # One task at a time receives.
        self._receiving = asyncio.Lock()
        self._closed = False
        # None if stdin was given with the run, else True until end of file.
        self._stdin_open: bool | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._stdin_error: InputError | None = None

    async def begin(self, stdin: AsyncIterator[bytes] | None, *, interactive: bool) -> None:
        """Connect to the output, and start to send ``stdin``.

        Without ``stdin``, the caller of an interactive run writes it.

        Raises:
            UnknownOutcome: the server went away.
        """
        self._stdin_open = interactive or None
        await self._connect()
        if stdin is not None:
            self._feeder = asyncio.create_task(
                self._feed_stdin(stdin), name=f"slipway-stdin-{self.id}"
            )

    async def signal(self, number: int) -> None:
        """Send a signal through the server; see :meth:`AsyncExecution.signal`."""
        check_signal(number)
        await self._api.request("POST", f"{self._stream.target}/signal", {"signal": int(number)})

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal through the server; see :meth:`AsyncExecution.resize`."""
        size = Tty(rows, columns)
        if not self._has_terminal:
            raise InputError("the program has no terminal", "Start it with tty=True.")
        if not self._closed:
            with suppress(UnknownRun):  # ended and no longer kept
                await self._api.request("POST", f"{self._stream.target}/resize", asdict(size))

    async def cancel(self) -> None:
        """End the run on the server, and keep its last events; see :meth:`AsyncExecution.cancel`.

        Raises:
            UnknownOutcome: the server does not answer.
        """
        if self._closed:
            return
        try:
            # If the run or the server is gone, so is the machine.
            with suppress(UnknownRun, HostError):
                await self._api.request("DELETE", self._stream.target)
            if self._socket is not None:
                await self._keep_late_events()
        finally:
            self.close()

    def close(self) -> None:
        """Close the socket, and stop sending stdin."""
        self._closed = True
        if self._feeder is not None:
            self._feeder.cancel()
        if self._socket is not None:
            self._socket.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            self.close()

    async def _next(self) -> Event:
        async with self._receiving:
            if not self._late:
                return await self._receive_event()
            item = self._late.popleft()
        if isinstance(item, SlipwayError):
            raise item
        return item

    async def _receive_event(self) -> Event:
        """Return the next event from the server. May be cancelled without loss."""
        try:
            while True:
                event = self._stream.decode_line(await self._read_line())
                if event is not None:
                    self._update_state(event)
                    if self._stream.has_ended:
                        self.close()
                    return event
        except SlipwayError:
            self._state, self._position = "ended", None
            self.close()
            raise

    async def _read_line(self) -> bytes:
        """Return the next line of the output; connect again if the connection breaks."""
        while True:
            if self._stdin_error is not None and self._feeder is not None:
                await asyncio.wait([self._feeder])  # the feeder cancels the run
                raise self._stdin_error
            if self._closed:
                raise UnknownOutcome("the handle of the run was closed before the run had ended")
            assert self._socket is not None
            line = await self._socket.read_line()
            if self._stdin_error is not None:
                continue
            if line is not None:
                return line
            if not self._closed:
                await self._reconnect()

    async def _reconnect(self) -> None:
        """Continue the output after the last complete line."""
        target = self._stream.prepare_resume()
        try:
            answer = await self._api.request("POST", target)
        except HostError:
            raise self._stream.make_lost_error(self._state) from None
        except InputError as error:
            raise self._stream.make_forgotten_error(error) from None
        self._stream.finish_resume(answer)
        await self._connect()

    async def _connect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        try:
            async with asyncio.timeout(self._api.timeout):
                self._socket = await LineSocket.connect(self._stream.socket)
        except OSError as error:  # TimeoutError is a subclass
            raise self._stream.make_connect_error(error, self._api.timeout) from None

    async def _keep_late_events(self) -> None:
        """Receive the last events of a cancelled run, for a later reader."""
        size = 0
        try:
            async with asyncio.timeout(self._api.timeout):
                while not self._stream.has_ended and size < MAX_LATE_BYTES:
                    async with self._receiving:
                        if self._stream.has_ended:
                            return
                        event = await self._receive_event()
                        self._late.append(event)
                    size += len(event.data) if isinstance(event, Output) else 1
        except TimeoutError:
            self._late.append(
                UnknownOutcome("the server did not report the end of a cancelled run")
            )
        except SlipwayError as error:
            self._late.append(error)
        else:
            if not self._stream.has_ended:
                self._late.append(make_protocol_error("the output of a cancelled run does not end"))

    async def _write(self, data: bytes) -> None:
        if self._stdin_open is None:
            raise InputError(
                "stdin was given with the run", "Start it with stdin=None to write to it."
            )
        if not self._stdin_open:
            raise InputError("stdin has been closed", "Write before you close it.")
        for command in encode_stdin(data):
            await self._send_command(command)

    async def _end_input(self) -> None:
        if self._stdin_open:
            self._stdin_open = False
            await self._send_command(STDIN_END)

    async def _send_command(self, command: bytes) -> None:
        if self._socket is None or self._closed:
            return
        self._stream.has_sent = True
        # Fails after the end of the run, or of the server, which the reader of events reports.
        with suppress(OSError):
            await self._socket.write(command)

    async def _feed_stdin(self, stdin: AsyncIterator[bytes]) -> None:
        """Send all of ``stdin``; cancel the run if the iterator fails."""
        try:
            async for data in stdin:
                if self._closed:
                    return
                await self._write(data)
            await self._end_input()
        except InputError as error:
            self._stdin_error = error
            try:
                with suppress(SlipwayError):
                    await self._api.request("DELETE", self._stream.target)
            finally:
                if self._socket is not None:
                    self._socket.close()
