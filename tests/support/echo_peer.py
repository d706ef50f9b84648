"""A peer at the other end of a machine's link that sends the guest's datagrams back to it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from slipway.machine.gateway_handle import create_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ECHO_PORT = 7
MAX_PACKET = 1 << 17
_IPV4 = b"\x08\x00"
_UDP = 17


class EchoPeer:
    """The peer, and the machine's end of its link until the machine has started."""

    def __init__(self) -> None:
        self.end, self.machine_end = create_link()
        self.end.setblocking(False)
        self.lengths: list[int] = []  # of the datagrams' frames
        self.senders: set[bytes] = set()  # Ethernet addresses

    async def serve(self) -> None:
        """Echo until the machine has ended."""
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while frame := await loop.sock_recv(self.end, MAX_PACKET):
                self.senders.add(frame[6:12])
                if (answer := build_echo(frame)) is not None:
                    self.lengths.append(len(frame))
                    await loop.sock_sendall(self.end, answer)


def build_echo(frame: bytes) -> bytes | None:
    """The answer to a frame with a datagram; None to any other.

    Addresses and ports change places, which changes no checksum.
    """
    if frame[12:14] != _IPV4 or frame[14] != 0x45 or frame[23] != _UDP:
        return None
    ethernet = frame[6:12] + frame[:6] + frame[12:14]
    ip = frame[14:26] + frame[30:34] + frame[26:30]
    return ethernet + ip + frame[36:38] + frame[34:36] + frame[38:]


@asynccontextmanager
async def open_peer() -> AsyncIterator[EchoPeer]:
    """A peer that echoes until the end of the context."""
    peer = EchoPeer()
    task = asyncio.create_task(peer.serve())
    try:
        yield peer
    finally:
        task.cancel()
        await asyncio.wait([task])
        peer.end.close()
        peer.machine_end.close()
