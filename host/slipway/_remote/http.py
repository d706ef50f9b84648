"""The calls of a server's API, each a question and a bounded answer over its Unix socket."""

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

# Of an answer of the server's. The longest is a list of languages.
MAX_ANSWER = 1024 * 1024
# The ends of the types of problems; the status tells enough of the others.
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
    """The server has no such run or session, or not so much of it any more."""


class Calls:
    """Asks the server that listens at ``path``; waits ``timeout`` seconds for each answer."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self._http = httpx.AsyncClient(
            # Without connections kept alive none stays open, and none is found closed by the server
            # when a job has just been sent.
            transport=httpx.AsyncHTTPTransport(
                uds=path, limits=httpx.Limits(max_keepalive_connections=0)
            ),
            base_url="http://slipway",
            timeout=timeout,
            headers={"Accept-Encoding": "identity", "Accept": "application/json"},
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close what is open."""
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        patient: bool = False,
    ) -> dict[str, Any]:
        """The object in the answer; an empty one where there is no content.

        ``patient``: the answer comes when there is room, however long that takes.

        Raises:
            SlipwayError: the one that the server tells.
            HostError: no server listens, or it is about something else.
            UnknownOutcome: it went away, or was silent, before it had answered.
        """
        content = None if body is None else json.dumps(body).encode("ascii")
        all_headers = {**(headers or {})}
        if content is not None:
            all_headers["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(None if content or patient else self.timeout) as deadline,
                self._http.stream(
                    method,
                    target,
                    content=content,
                    headers=all_headers,
                    timeout=httpx.Timeout(self.timeout, read=None if patient else self.timeout),
                ) as answer,
            ):
                # However long a large job took to be sent, its answer is short.
                deadline.reschedule(asyncio.get_running_loop().time() + self.timeout)
                text = await self._read(answer)
        except (TimeoutError, httpx.TimeoutException):
            raise UnknownOutcome(
                f"the server at {self.path} did not answer {method} {target} within"
                f" {self.timeout:g} s"
            ) from None
        except httpx.ConnectError as error:
            raise self._unreachable(error) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise UnknownOutcome(
                f"the server at {self.path} went away while it was asked for {method} {target}:"
                f" {str(error) or type(error).__name__}"
            ) from None
        if not answer.is_success:
            raise _told(answer.status_code, text)
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

    def _unreachable(self, error: BaseException) -> HostError:
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


def _told(status: int, text: bytes) -> SlipwayError:
    """The error in an answer of problem+json (RFC 9457), or in its status alone."""
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
