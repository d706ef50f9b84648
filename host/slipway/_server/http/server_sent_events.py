"""A run's events as Server-Sent Events (the HTML standard, 9.2), while the client stays."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from slipway._model.errors import SlipwayError
from slipway._server.http.disconnect import client_left
from slipway._wire.errors import encode_error
from slipway._wire.events import encode_event_and_files

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from slipway._model.execution import AsyncExecution

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 10.0
# A comment, which readers of such streams leave out.
_HEARTBEAT = b":\n\n"


async def end(execution: AsyncExecution) -> None:
    """Cancel ``execution``, and take what is left of its events: its end is to be counted."""
    await execution.cancel()
    with suppress(SlipwayError):
        async for _ in execution:
            pass


class EventStream(Response):
    """The events of ``execution``, which is cancelled when its client leaves."""

    media_type = MEDIA_TYPE

    def __init__(self, execution: AsyncExecution) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._execution = execution

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(client_left(receive))
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                await telling
        finally:
            for task in (telling, leaving):
                task.cancel()
            await asyncio.gather(telling, leaving, return_exceptions=True)
            await end(self._execution)

    async def _tell(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        upcoming = asyncio.ensure_future(anext(self._execution))
        try:
            while True:
                done, _ = await asyncio.wait([upcoming], timeout=HEARTBEAT_SECONDS)
                if not done:
                    await send(_body(_HEARTBEAT))
                    continue
                try:
                    event = upcoming.result()
                except StopAsyncIteration:
                    break
                except SlipwayError as error:
                    await send(_body(_framed({"type": "failed", **encode_error(error)})))
                    break
                for record in encode_event_and_files(event):
                    await send(_body(_framed(record)))
                upcoming = asyncio.ensure_future(anext(self._execution))
        finally:
            upcoming.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _framed(record: dict[str, Any]) -> bytes:
    data = json.dumps(record, separators=(",", ":"))
    return f"event: {record['type']}\ndata: {data}\n\n".encode("ascii")


def _body(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}
