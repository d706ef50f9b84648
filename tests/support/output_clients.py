"""Clients of output sockets that block, in threads of their own."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30
"""After which a client that gets nothing gives up."""


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory that leaves room for names in the path of a socket; pytest's do not always."""
    with tempfile.TemporaryDirectory(prefix="s") as path:
        yield Path(path)


def connect(path: Path | str) -> socket.socket:
    """A connection; the kernel makes it before anybody accepts it."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(path))  # waits for room in the queue, which it does not with a timeout
    client.settimeout(SECONDS)
    return client


def read_all(client: socket.socket) -> bytes:
    """Read until the stream's end, and close."""
    with client:
        pieces = []
        while piece := client.recv(256 * 1024):
            pieces.append(piece)
        return b"".join(pieces)


def read_exactly(client: socket.socket, size: int) -> bytes:
    """Read ``size`` bytes; fewer at the stream's end."""
    pieces = []
    while size and (piece := client.recv(min(size, 256 * 1024))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


async def whole(path: Path | str) -> bytes:
    """All that a client gets which connects now."""
    return await asyncio.to_thread(read_all, connect(path))
