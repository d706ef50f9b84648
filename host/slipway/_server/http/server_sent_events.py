"""Events of a run as Server-Sent Events (HTML standard, 9.2), until the client leaves."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from slipway._server.http.disconnect import wait_for_disconnect
from slipway._util.errors import SlipwayError
from slipway._wire.errors import encode_error
from slipway._wire.events import encode_event_and_files

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from slipway._model.execution import AsyncExecution

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 10.0
# A comment, which readers of such streams ignore.
_HEARTBEAT = b":\n\n"


async def cancel_and_drain(execution: AsyncExecution) -> None:
    """Cancel ``execution`` and take its remaining events, so that its end is counted."""
    await execution.cancel()
    with suppress(SlipwayError):
        async for _ in execution:
            pass


class EventStream(Response):
    """Response with the events of ``execution``, which is cancelled when its client leaves."""

    media_type = MEDIA_TYPE

    def __init__(self, execution: AsyncExecution) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._execution = execution

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        sending = asyncio.create_task(self._send_events(send))
        leaving = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await cancel_and_drain(self._execution)

    async def _send_events(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        upcoming = asyncio.ensure_future(anext(self._execution, None))
        try:
            while True:
                done, _ = await asyncio.wait([upcoming], timeout=HEARTBEAT_SECONDS)
                if not done:
                    await send(_build_message(_HEARTBEAT))
                    continue
                try:
                    event = upcoming.result()
                except SlipwayError as error:
                    record = {"type": "failed", **encode_error(error)}
                    await send(_build_message(_encode_event(record)))
                    break
                if event is None:
                    break
                for record in encode_event_and_files(event):
                    await send(_build_message(_encode_event(record)))
                    # Many pieces of files; a client that reads fast never makes send() wait.
                    await asyncio.sleep(0)
                upcoming = asyncio.ensure_future(anext(self._execution, None))
        finally:
            upcoming.cancel()
            del upcoming  # its exception would hold this frame, and thereby the execution
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _encode_event(record: dict[str, Any]) -> bytes:
    data = json.dumps(record, separators=(",", ":"))
    return f"event: {record['type']}\ndata: {data}\n\n".encode("ascii")


def _build_message(data: bytes) -> dict[str, Any]:
    """Return the ASGI message with a part of the response's body."""
    return {"type": "http.response.body", "body": data, "more_body": True}
