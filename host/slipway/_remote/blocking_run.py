"""Run on a server, for the command line: without an event loop, whose import takes too long."""

from __future__ import annotations

import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from slipway._model.events import find_state
from slipway._remote.api_call import PIECE
from slipway._remote.problems import UnknownRun
from slipway._remote.run_stream import STDIN_END, LineSplitter, RunStream, encode_stdin
from slipway._util.errors import HostError, InputError, SlipwayError, UnknownOutcome
from slipway._wire.job import encode_job

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from slipway._model.events import Event
    from slipway._model.run_request import RunRequest
    from slipway._remote.blocking_api import BlockingApi


class BlockingRun:
    """Run on a server. One thread reads its events, and one thread may write stdin.

    As a context manager, the run is cancelled at the end of the block.
    """

    def __init__(self, api: BlockingApi, stream: RunStream) -> None:
        self._api = api
        self._stream = stream
        self._state = stream.started.state
        self._lines = LineSplitter()
        self._socket: socket.socket | None = None
        # Held to write stdin, and to replace or close the socket.
        self._writing = threading.Lock()
        self._closed = False

    @classmethod
    def start(cls, api: BlockingApi, request: RunRequest) -> Self:
        """Start ``request`` on the server; stdin follows if ``request.stdin`` is not bytes.

        An interruption waits for the answer: only with it can the run be ended.

        Raises:
            InputError: the request is invalid; nothing was started.
            SlipwayError: as :meth:`BlockingApi.request`.
        """
        with api.waiter.shield():
            answer = api.request("POST", "/v1/start", encode_job(request))
            run = cls(api, RunStream(api.path, answer, request.options))
            try:
                run._connect()
            except SlipwayError:
                run.cancel()
                raise
        return run

    def read_event(self) -> Event:
        """Return the next event, up to ``Ended``.

        Raises:
            SlipwayError: the run failed.
            UnknownOutcome: the server went away, or broke the protocol.
        """
        try:
            while True:
                event = self._stream.decode_line(self._read_line())
                if event is not None:
                    self._state = find_state(event) or self._state
                    if self._stream.has_ended:
                        self._close()
                    return event
        except SlipwayError:
            self._close()
            raise

    def write_stdin(self, data: bytes) -> bool:
        """Write ``data`` to the program, and wait while it does not read; no data ends stdin.

        Return False if nobody reads any more.
        """
        commands = encode_stdin(data) if data else (STDIN_END,)
        with self._writing:
            return all(self._send(command) for command in commands)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal; no effect after the end.

        Raises:
            SlipwayError: as :meth:`BlockingApi.request`.
        """
        if not self._closed:
            size = {"rows": rows, "columns": columns}
            with suppress(UnknownRun):  # ended and no longer kept
                self._api.request("POST", f"{self._stream.target}/resize", size)

    def cancel(self) -> None:
        """End the run, and wait until its machine is gone; no effect after the end.

        Raises:
            UnknownOutcome: the server does not answer.
        """
        if self._closed:
            return
        try:
            # If the run or the server is gone, so is the machine.
            with self._api.waiter.shield(), suppress(UnknownRun, HostError):
                self._api.request("DELETE", self._stream.target)
        finally:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def _read_line(self) -> bytes:
        """Return the next line of the output; connect again if the connection breaks."""
        while (line := self._lines.take_line()) is None:
            if self._closed:
                raise UnknownOutcome("the handle of the run was closed before the run had ended")
            if data := self._receive():
                self._lines.feed(data)
            else:
                self._reconnect()
        return line

    def _receive(self) -> bytes:
        """Return bytes of the output; none at the end of the connection."""
        assert self._socket is not None
        while True:
            self._api.waiter.wait(self._socket.fileno(), select.POLLIN, None)
            try:
                return self._socket.recv(PIECE)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def _reconnect(self) -> None:
        """Continue the output after the last complete line."""
        with self._writing:
            target = self._stream.prepare_resume()
            self._drop_socket()
        try:
            answer = self._api.request("POST", target)
        except HostError:
            raise self._stream.make_lost_error(self._state) from None
        except InputError as error:
            raise self._stream.make_forgotten_error(error) from None
        self._stream.finish_resume(answer)
        self._lines = LineSplitter()
        self._connect()

    def _connect(self) -> None:
        try:
            connected = self._api.connect(self._stream.socket)
        except OSError as error:  # TimeoutError is a subclass
            raise self._stream.make_connect_error(error, self._api.timeout) from None
        with self._writing:
            self._socket = connected

    def _send(self, command: bytes) -> bool:
        """Send ``command``; return False if the connection is closed or broken."""
        if self._socket is None:
            return False
        self._stream.has_sent = True
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        rest = memoryview(command)
        while rest and not self._closed:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                poll.poll()
            except OSError:
                return False
        return not rest

    def _close(self) -> None:
        """Close the socket; a thread that writes stdin returns."""
        self._closed = True
        if self._socket is not None:
            import socket

            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            with self._writing:
                self._drop_socket()

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
