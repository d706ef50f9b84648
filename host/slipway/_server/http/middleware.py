"""Around the application: no bug leaves it as a traceback, and no body is left unread behind it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from slipway._server.http.request_bodies import ClientGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from slipway._server.http.metrics import Metrics

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

log = logging.getLogger("slipway.api")


class Envelope:
    """An ASGI application that calls ``application`` and counts what it answers."""

    def __init__(self, application: Application, metrics: Metrics) -> None:
        self._application = application
        self._metrics = metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = _Exchange(scope, receive, send)
        try:
            await self._application(scope, exchange.receive, exchange.send)
        except ClientGone:
            return
        except Exception:
            # It has been answered; Starlette raises it again. The query may be secret.
            log.exception("%s %.200r failed by a bug", scope["method"], scope["path"])
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.answered(route, exchange.status or 499)


class _Exchange:
    """One request and its response, as they pass."""

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
                # Else whatever else the client sends would be read to nowhere, without end.
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        await self._send(message)
