"""Choice of the agent's port, in a machine that has several."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from slipway_protocol.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway.machine.model import PortKind, Transport


class Ports(Protocol):
    """Part of a machine that has the streams of its devices."""

    @property
    def streams(self) -> Mapping[PortKind, Transport]:
        """The streams; see :class:`slipway.machine.model.Machine`."""
        ...

    async def take_port(self, port: PortKind) -> None:
        """Close all but one; see :class:`slipway.machine.model.Machine`."""
        ...


async def wait_for_port(machine: Ports) -> Channel:
    """Wait until the agent speaks on a port of ``machine``, which takes that; return the channel.

    The first message in a good frame decides, and is still to be read. If the guest speaks on
    several ports at once, the better is taken. Streams that end are left out; if all have ended,
    the machine has, and the channel reports that.
    """
    channels = {
        kind: Channel(stream.reader, stream.writer) for kind, stream in machine.streams.items()
    }
    waiting = {
        kind: asyncio.create_task(channel.wait_message()) for kind, channel in channels.items()
    }
    tasks = tuple(waiting.values())
    try:
        while True:
            await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
            for kind, task in list(waiting.items()):
                if task.done() and (task.result() or len(waiting) == 1):
                    await machine.take_port(kind)
                    return channels[kind]
                if task.done():
                    del waiting[kind]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
