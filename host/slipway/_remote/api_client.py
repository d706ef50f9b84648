"""HTTP client of a server's API: one request and its bounded answer per connection."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from slipway._remote.problems import decode_problem
from slipway._util.errors import HostError, InputError, UnknownOutcome
from slipway._util.units import MIB
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import decode_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Bytes of an answer. The longest answer is a list of languages.
MAX_ANSWER = MIB


class ApiClient:
    """HTTP client of the server at ``path``; the server may take ``timeout`` seconds to answer."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        # For each single step: connecting, sending a piece, receiving a piece.
        self._timeout = httpx.Timeout(timeout)
        self._http = httpx.AsyncClient(
            # No connection is kept alive: none stays open in an idle client, and none turns out to
            # be closed by the server after a job was sent.
            transport=httpx.AsyncHTTPTransport(
                uds=path, limits=httpx.Limits(max_keepalive_connections=0)
            ),
            base_url="http://slipway",
            headers={"Accept-Encoding": "identity", "Accept": "application/json"},
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request, and return the object in the answer; {} if the answer is empty.

        Raises:
            SlipwayError: the server refused; the error is the one in the answer.
            HostError: no server listens, or the server has a fault.
            UnknownOutcome: the server went away or did not answer in time.
        """
        # A large body may take long to send: then only pauses are limited.
        seconds = self.timeout if body is None else None
        with self._translated_errors(method, target):
            request = self._build_request(method, target, body, headers, self._timeout)
            return await self._exchange(request, seconds)

    async def request_when_ready(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request that waits in the server's queue, for any time.

        Return value and exceptions are those of :meth:`request`.
        """
        with self._translated_errors(method, target):
            timeout = httpx.Timeout(self.timeout, read=None)
            request = self._build_request(method, target, body, headers, timeout)
            return await self._exchange(request, None)

    def _build_request(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        timeout: httpx.Timeout,
    ) -> httpx.Request:
        content = None if body is None else json.dumps(body).encode("ascii")
        fields = dict(headers or {})
        if content is not None:
            fields["Content-Type"] = "application/json"
        return self._http.build_request(
            method, target, content=content, headers=fields, timeout=timeout
        )

    async def _exchange(self, request: httpx.Request, seconds: float | None) -> dict[str, Any]:
        """Send ``request``, and decode an answer that begins within ``seconds``."""
        async with asyncio.timeout(seconds):
            answer = await self._http.send(request, stream=True)
        async with aclosing(answer), asyncio.timeout(self.timeout):
            text = await _read_body(answer)
        if not answer.is_success:
            raise decode_problem(answer.status_code, text)
        try:
            return decode_line(text) if text else {}
        except InputError as error:
            raise make_protocol_error(error.message) from None

    @contextmanager
    def _translated_errors(self, method: str, target: str) -> Iterator[None]:
        """Raise errors of the connection as SlipwayError."""
        try:
            yield
        except (TimeoutError, httpx.TimeoutException):
            raise UnknownOutcome(
                f"the server at {self.path} did not answer {method} {target} within"
                f" {self.timeout:g} s"
            ) from None
        except httpx.ConnectError as error:
            raise self._make_connect_error(error) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnknownOutcome(
                f"the server at {self.path} went away while it handled {method} {target}:"
                f" {str(error) or type(error).__name__}"
            ) from None

    def _make_connect_error(self, error: BaseException) -> HostError:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, PermissionError):
            return HostError(
                f"cannot open the server's socket {self.path}: {cause.strerror}",
                "Ask for access to the socket: slipway serve --mode, --owner.",
            )
        path = Path(self.path)
        if path.exists() and not path.is_socket():
            return HostError(f"{path} is no socket", "Name the socket that the server listens on.")
        return HostError(
            f"no server listens at {self.path}",
            f"Start one: slipway serve --api-sock {self.path}",
        )


async def _read_body(answer: httpx.Response) -> bytes:
    """Read at most ``MAX_ANSWER`` bytes.

    Raises:
        UnknownOutcome: the answer is longer.
    """
    text = bytearray()
    async for piece in answer.aiter_raw():
        text += piece
        if len(text) > MAX_ANSWER:
            raise UnknownOutcome(f"the server's answer has more than {MAX_ANSWER} bytes")
    return bytes(text)
