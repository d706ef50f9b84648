"""Client of a server's API without an event loop: one request and its answer per connection."""

from __future__ import annotations

import select
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from slipway._remote.api_call import PIECE, ApiCall
from slipway._util.errors import HostError
from slipway._util.socket_limits import CONNECT_PAUSE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

_CREDENTIALS = 12  # struct ucred: pid, uid, gid (unix(7))


class Waiter(Protocol):
    """Way to wait for a descriptor; a waiter may raise, to interrupt its caller."""

    def wait(self, descriptor: int, events: int, seconds: float | None) -> bool:
        """Wait until poll(2) reports ``events``; return False after ``seconds``.

        A negative ``descriptor`` is never ready.
        """
        ...

    def shield(self) -> AbstractContextManager[None]:
        """Return a context in which a first interruption waits for its end."""
        ...


class BlockingApi:
    """Client of the server at ``path``, which may take ``timeout`` seconds to answer.

    With ``owner``, only a server of the user with that id is accepted.
    """

    def __init__(self, path: str, timeout: float, waiter: Waiter, owner: int | None = None) -> None:
        self.path = path
        self.timeout = timeout
        self.waiter = waiter
        self._owner = owner

    def request(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request, and return the object in the answer; {} if the answer is empty.

        Raises:
            SlipwayError: the server refused; the error is the one in the answer.
            HostError: no server of the owner listens, or the server has a fault.
            UnknownOutcome: the server went away or did not answer in time.
        """
        call = ApiCall(self.path, method, target, body, headers)
        with ExitStack() as stack:
            try:
                connected = stack.enter_context(self.connect(self.path))
            except TimeoutError:
                raise call.make_timeout_error(self.timeout) from None
            except OSError as error:
                raise call.make_connect_error(error) from None
            self._check_owner(connected)
            try:
                self._send(connected, call)
                self._receive(connected, call)
            except TimeoutError:
                raise call.make_timeout_error(self.timeout) from None
        return call.decode()

    def connect(self, path: str) -> socket.socket:
        """Return a connected, non-blocking socket; waits while the queue of the listener is full.

        Raises:
            OSError: no listener, or no access.
            TimeoutError: the queue was full for ``timeout`` seconds.
        """
        deadline = time.monotonic() + self.timeout
        with ExitStack() as stack:
            connecting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connecting.setblocking(False)
            while True:
                try:
                    connecting.connect(path)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError from None
                    self.waiter.wait(-1, 0, CONNECT_PAUSE)
            stack.pop_all()
        return connecting

    def _check_owner(self, connected: socket.socket) -> None:
        if self._owner is None:
            return
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS)
        if memoryview(credentials).cast("I")[1] != self._owner:
            raise HostError(f"the server at {self.path} belongs to another user")

    def _send(self, connected: socket.socket, call: ApiCall) -> None:
        """Send the request. A large body may take long: only pauses are limited.

        Raises:
            TimeoutError: the server takes nothing.
        """
        rest = memoryview(call.request)
        while rest:
            try:
                rest = rest[connected.send(rest[:PIECE]) :]
            except BlockingIOError:
                self._wait(connected, select.POLLOUT, self.timeout)
            except OSError:
                # A server that refuses early has answered, and has closed the connection.
                return

    def _receive(self, connected: socket.socket, call: ApiCall) -> None:
        """Receive the answer: the head within the time limit, and then the body.

        Raises:
            TimeoutError: the server is too slow.
        """
        deadline = time.monotonic() + self.timeout
        while not call.answer.is_complete:
            self._wait(connected, select.POLLIN, deadline - time.monotonic())
            had_status = call.answer.status
            try:
                call.feed(connected.recv(PIECE))
            except BlockingIOError:
                continue
            except OSError as error:
                raise call.make_break_error(error.strerror or type(error).__name__) from None
            if call.answer.status and not had_status:
                deadline = time.monotonic() + self.timeout

    def _wait(self, connected: socket.socket, events: int, seconds: float) -> None:
        if not self.waiter.wait(connected.fileno(), events, max(0.0, seconds)):
            raise TimeoutError
