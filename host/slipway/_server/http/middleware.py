"""Wrapper of the application: logs bugs, counts responses, and closes after unread bodies."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from slipway._server.http.metrics import Metrics

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

log = logging.getLogger("slipway.api")

# The status that metrics count for a client that left before its response, as nginx does.
CLIENT_CLOSED = 499


class Envelope:
    """ASGI application that calls ``application`` and counts its responses."""

    def __init__(self, application: Application, metrics: Metrics) -> None:
        self._application = application
        self._metrics = metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = _Exchange(scope, receive, send)
        try:
            await self._application(scope, exchange.receive, exchange.send)
        except Exception:
            # The response is sent; Starlette raises the error again. The query may be secret.
            log.exception("bug in %s %.200r", scope["method"], scope["path"])
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.count_response(route, exchange.status or CLIENT_CLOSED)


class _Exchange:
    """Messages of one request and its response, as they pass."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        fields = dict(scope["headers"])
        # RFC 9112 6.3: a request without these has no body.
        self._unread = fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields
        self._receive = receive
        self._send = send
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._unread:
                # Without this, uvicorn reads and drops the rest of the body, however long.
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        await self._send(message)
