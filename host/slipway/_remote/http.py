"""HTTP client of the API: requests with bounded answers, over the server's Unix socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from slipway._model.errors import (
    Busy,
    HostError,
    ImageError,
    InputError,
    SlipwayError,
    UnknownOutcome,
)
from slipway._wire.errors import MAX_RETRY, make_protocol_error
from slipway._wire.fields import Fields, decode_line

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bytes of an answer. The longest answer is a list of languages.
MAX_ANSWER = 1024 * 1024
# Errors by the end of the problem's type; the status suffices for all others.
_PROBLEMS: dict[str, type[SlipwayError]] = {
    "input-error": InputError,
    "busy": Busy,
    "draining": Busy,
    "image-error": ImageError,
    "host-error": HostError,
    "unknown-outcome": UnknownOutcome,
    "session-lost": HostError,
    "session-ended": HostError,
}


class UnknownRun(InputError):
    """Error for a run or session that the server does not know, or no longer keeps in full."""


class ApiClient:
    """Client of the API of the server at ``path``; waits ``timeout`` seconds for each answer."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._http = httpx.AsyncClient(
            # Connections are not kept: the server could close an idle connection at the moment when
            # a job is sent on it.
            transport=httpx.AsyncHTTPTransport(
                uds=path, limits=httpx.Limits(max_keepalive_connections=0)
            ),
            base_url="http://slipway",
            timeout=timeout,
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
        *,
        may_queue: bool = False,
    ) -> dict[str, Any]:
        """Send a request, and return the object of the answer, or {} for an empty answer.

        With ``may_queue`` the answer may take any time: the server waits for room.

        Raises:
            SlipwayError: the error that the server reports.
            HostError: no server listens, or the socket cannot be used.
            UnknownOutcome: the server went away, or did not answer in time.
        """
        content = None if body is None else json.dumps(body).encode("ascii")
        all_headers = {**(headers or {})}
        if content is not None:
            all_headers["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(None if content or may_queue else self.timeout) as deadline,
                self._http.stream(
                    method,
                    target,
                    content=content,
                    headers=all_headers,
                    timeout=httpx.Timeout(self.timeout, read=None if may_queue else self.timeout),
                ) as answer,
            ):
                # Sending a large job may take any time; the answer is short.
                deadline.reschedule(asyncio.get_running_loop().time() + self.timeout)
                text = await self._read(answer)
        except (TimeoutError, httpx.TimeoutException):
            raise UnknownOutcome(
                f"the server at {self.path} did not answer {method} {target} within"
                f" {self.timeout:g} s"
            ) from None
        except httpx.ConnectError as error:
            raise self._make_connect_error(error) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnknownOutcome(
                f"the server at {self.path} went away while it was asked for {method} {target}:"
                f" {str(error) or type(error).__name__}"
            ) from None
        if not answer.is_success:
            raise _make_error(answer.status_code, text)
        try:
            return decode_line(text) if text else {}
        except InputError as error:
            raise make_protocol_error(error.message) from None

    async def _read(self, answer: httpx.Response) -> bytes:
        text = bytearray()
        async for piece in answer.aiter_raw():
            text += piece
            if len(text) > MAX_ANSWER:
                raise UnknownOutcome(f"the server's answer has more than {MAX_ANSWER} bytes")
        return bytes(text)

    def _make_connect_error(self, error: BaseException) -> HostError:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, PermissionError):
            return HostError(
                f"the server's socket {self.path} may not be opened: {cause.strerror}",
                "Ask for the rights to it: slipway serve --mode, --owner.",
            )
        path = Path(self.path)
        if path.exists() and not path.is_socket():
            return HostError(f"{path} is no socket", "Name the socket that the server listens on.")
        return HostError(
            f"no server listens at {self.path}",
            f"Start one: slipway serve --api-sock {self.path}",
        )


def _make_error(status: int, text: bytes) -> SlipwayError:
    """Make the error of an answer from its problem+json (RFC 9457), or from its status alone."""
    try:
        problem = Fields(decode_line(text), "the problem")
        kind, message, hint = (
            problem.plain_text("type"),
            problem.plain_text("detail"),
            problem.plain_text("hint"),
        )
        seconds = min(problem.number("retry_after"), MAX_RETRY) if "retry_after" in problem else 1.0
    except InputError:
        kind, message, hint, seconds = "", "", "", 1.0
    message = message or f"the server refused with status {status}"
    named = _PROBLEMS.get(kind.removeprefix("urn:slipway:"))
    if named is None and status in {404, 410}:
        return UnknownRun(message, hint)
    by_status = HostError if status in {401, 403} or status >= 500 else InputError
    error = named or (Busy if status == 429 else by_status)
    return Busy(message, hint, seconds) if error is Busy else error(message, hint)
