"""Execution of a run on a server."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from slipway._model.errors import HostError, InputError, SlipwayError, UnknownOutcome
from slipway._model.events import Event, Output
from slipway._model.execution import AsyncExecution, check_signal
from slipway._model.options import Tty
from slipway._remote.http import UnknownRun
from slipway._remote.line_socket import LineSocket
from slipway._util.unix_sockets import MAX_SOCKET_PATH
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import Fields, decode_line, encode_data, encode_line
from slipway._wire.reader import MAX_OUTPUT, EventReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from slipway._model.options import Options
    from slipway._remote.http import ApiClient

STATES = ("queued", "preparing", "booting", "building", "running", "ended")
# Bytes of stdin in one command, which is a line of 64 KiB in base64.
STDIN_PIECE = 48 * 1024
# Connections in a row that may break without a single line.
ATTEMPTS = 5
# Bytes of output that are taken after a cancellation. A server keeps about 1 MiB.
MAX_REST = 16 * 1024 * 1024
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,128}")


class RemoteExecution(AsyncExecution):
    """Execution of the run described by ``answer``, the answer to ``POST /v1/start``.

    Raises:
        UnknownOutcome: the answer is invalid.
    """

    def __init__(self, api: ApiClient, answer: object, options: Options) -> None:
        try:
            fields = Fields(answer, "the answer")
            identifier, self._path = fields.text("id"), _socket_path(fields)
            if not _IDENTIFIER.fullmatch(identifier):
                raise InputError(f"{identifier!r:.60} is not the id of a run")
            super().__init__(identifier, fields.plain_text("language"))
            self._state = fields.choice("state", STATES)
            self._position = fields.integer("position") if "position" in fields else None
        except InputError as error:
            raise make_protocol_error(error.message) from None
        self._api = api
        self._has_terminal = bool(options.tty)
        limit = max(options.output_limit or 0, MAX_OUTPUT)
        self._reader = EventReader(options.outputs, limit)
        self._socket: LineSocket | None = None
        # Bytes of handled lines since the beginning of the stream.
        self._offset = 0
        self._attempts = 0
        # Events that arrived during the cancellation. The lock allows one receiver at a time.
        self._rest: deque[Event | SlipwayError] = deque()
        self._receiving = asyncio.Lock()
        self._over = False
        self._input: bool | None = None
        self._written = False
        self._feeder: asyncio.Task[None] | None = None
        self._input_failure: InputError | None = None

    async def begin(self, stdin: AsyncIterator[bytes] | None, *, interactive: bool) -> None:
        """Connect to the output, and feed ``stdin`` to the program, if given.

        With ``interactive`` the program reads stdin from commands of this handle.

        Raises:
            UnknownOutcome: the server went away.
        """
        self._input = interactive or None
        await self._connect()
        if stdin is not None:
            self._feeder = asyncio.create_task(self._feed(stdin), name=f"slipway-stdin-{self.id}")

    async def signal(self, number: int) -> None:
        """Send a signal; see :meth:`AsyncExecution.signal`."""
        check_signal(number)
        await self._api.request("POST", f"/v1/runs/{self.id}/signal", {"signal": int(number)})

    async def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal; see :meth:`AsyncExecution.resize`."""
        size = Tty(rows, columns)
        if not self._has_terminal:
            raise InputError("the program has no terminal", "Start it with tty=True.")
        if not self._over:
            with suppress(UnknownRun):  # ended, and no longer kept
                await self._api.request("POST", f"/v1/runs/{self.id}/resize", asdict(size))

    async def cancel(self) -> None:
        """Cancel the run and take its remaining events; see :meth:`AsyncExecution.cancel`.

        Raises:
            UnknownOutcome: the server does not answer.
        """
        if self._over:
            return
        try:
            # Without the run or the server, the machine is gone as well.
            with suppress(UnknownRun, HostError):
                await self._api.request("DELETE", f"/v1/runs/{self.id}")
            if self._socket is not None:
                await self._take_rest()
        finally:
            self.close()

    def close(self) -> None:
        """Close the socket and cancel the task. Idempotent."""
        self._over = True
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
            if not self._rest:
                return await self._receive()
            item = self._rest.popleft()
        if isinstance(item, SlipwayError):
            raise item
        return item

    async def _receive(self) -> Event:
        """Receive the next event. Cancellation loses nothing."""
        try:
            while True:
                event = self._handle(await self._read_line())
                if event is not None:
                    self._follow(event)
                    if self._reader.ended:
                        self.close()
                    return event
        except SlipwayError:
            self._state, self._position = "ended", None
            self.close()
            raise

    def _handle(self, text: bytes) -> Event | None:
        self._offset += len(text)
        self._attempts = 0
        try:
            record = decode_line(text)
        except InputError as error:
            raise make_protocol_error(error.message) from None
        return self._reader.feed(record)

    async def _read_line(self) -> bytes:
        while True:
            if self._input_failure is not None and self._feeder is not None:
                await asyncio.wait([self._feeder])  # which cancels the run
                raise self._input_failure
            if self._over:
                raise UnknownOutcome("the handle of the run was closed before the run had ended")
            assert self._socket is not None
            text = await self._socket.read_line()
            if self._input_failure is not None:
                continue
            if text is not None:
                return text
            if not self._over:
                await self._reconnect()

    async def _reconnect(self) -> None:
        """Connect again, and resume the stream where it broke."""
        if self._written:
            raise UnknownOutcome(
                "the connection to the run broke, and what it got of its stdin is not known",
                "The program may have run, in part or whole; see whether the server still does.",
            )
        if self._attempts == ATTEMPTS:
            raise make_protocol_error(f"the output ended {ATTEMPTS} times before the run did")
        self._attempts += 1
        try:
            answer = await self._api.request(
                "POST", f"/v1/runs/{self.id}/resume?offset={self._offset}"
            )
            fields = Fields(answer, "the answer")
            if fields.integer("offset") != self._offset:
                raise make_protocol_error("it resumes the output somewhere else")
            self._path = _socket_path(fields)
        except HostError:
            raise self._make_lost_error() from None
        except InputError as error:
            raise UnknownOutcome(f"the server has lost the run: {error.message}") from None
        await self._connect()

    async def _connect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        try:
            async with asyncio.timeout(self._api.timeout):
                self._socket = await LineSocket.connect(self._path)
        except OSError as error:  # TimeoutError included
            reason = error.strerror or "it does not accept"
            raise UnknownOutcome(
                f"cannot connect to the output of the run at {self._path!r:.120}: {reason}",
                "The server may have ended, or may not let you in.",
            ) from None

    def _make_lost_error(self) -> UnknownOutcome:
        doing = {"building": "was being built", "running": "ran"}.get(
            self._state, f"was {self._state}"
        )
        return UnknownOutcome(
            f"the server at {self._api.path} went away while the program {doing}",
            "What it ran has ended with it.",
        )

    async def _take_rest(self) -> None:
        """Keep the remaining events of a cancelled run for the reader."""
        size = 0
        try:
            async with asyncio.timeout(self._api.timeout):
                while not self._reader.ended and size < MAX_REST:
                    async with self._receiving:
                        if self._reader.ended:
                            return
                        event = await self._receive()
                        self._rest.append(event)
                    size += len(event.data) if isinstance(event, Output) else 1
        except TimeoutError:
            self._rest.append(UnknownOutcome("the server did not tell the end of a cancelled run"))
        except SlipwayError as error:
            self._rest.append(error)
        else:
            if not self._reader.ended:
                self._rest.append(make_protocol_error("the output of a cancelled run does not end"))

    async def _write(self, data: bytes) -> None:
        if self._input is None:
            raise InputError(
                "stdin was given with the run", "Start it with stdin=None to write to it."
            )
        if not self._input:
            raise InputError("stdin has been closed", "Write before you close it.")
        for start in range(0, len(data), STDIN_PIECE):
            await self._send_command(
                {"type": "stdin", **encode_data(data[start : start + STDIN_PIECE])}
            )

    async def _end_input(self) -> None:
        if self._input:
            self._input = False
            await self._send_command({"type": "stdin_end"})

    async def _send_command(self, record: dict[str, str]) -> None:
        if self._socket is None or self._over:
            return
        self._written = True
        # An ended run reads no more; the reader of events reports a lost server.
        with suppress(OSError):
            await self._socket.write(encode_line(record))

    async def _feed(self, stdin: AsyncIterator[bytes]) -> None:
        try:
            async for data in stdin:
                if self._over:
                    return
                await self._write(data)
            await self._end_input()
        except InputError as error:
            self._input_failure = error
            try:
                with suppress(SlipwayError):
                    await self._api.request("DELETE", f"/v1/runs/{self.id}")
            finally:
                if self._socket is not None:
                    self._socket.close()


def _socket_path(fields: Fields) -> str:
    path = fields.text("socket")
    size = len(path.encode("utf-8", "replace"))
    # Absolute, as servers report it: a relative path would depend on our directory.
    if not path.startswith("/") or not path.isprintable() or size > MAX_SOCKET_PATH:
        raise InputError(f"{path!r:.120} is not the path of a socket")
    return path
