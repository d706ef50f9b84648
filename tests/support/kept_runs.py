"""Kept runs as in a server, with a check that nothing is left of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway._server.kept.kept_runs import KeptRuns
from slipway._server.kept.retention import ClientTimeouts, KeptBounds, OutputSockets
from slipway._server.peers import AllowList
from slipway._server.socket_access import SocketAccess
from support.output_clients import short_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

US = os.geteuid()
FOREVER = ClientTimeouts(reconnect=3600, grace=3600)
MIB = 1024 * 1024
_DESCRIPTORS = Path("/proc/self/fd")


@asynccontextmanager
async def keeping(
    timeouts: ClientTimeouts = FOREVER,
    access: SocketAccess | None = None,
    bounds: KeptBounds | None = None,
) -> AsyncIterator[KeptRuns]:
    """Keep runs with ``timeouts``, and check at the end that nothing is left of them."""
    with short_directory() as directory:
        directory.chmod(0o711)
        before = set(_DESCRIPTORS.iterdir())
        runs = KeptRuns(
            OutputSockets(directory, access or SocketAccess(), AllowList(US, everybody=True)),
            timeouts,
            bounds,
        )
        yield runs
        await runs.close()
        assert list(directory.iterdir()) == []
        assert set(_DESCRIPTORS.iterdir()) <= before
        assert asyncio.all_tasks() == {asyncio.current_task()}


def lines(data: bytes) -> list[dict[str, Any]]:
    """Return the records of a stream of events."""
    return [json.loads(line) for line in data.splitlines()]


def command(**fields: Any) -> bytes:
    """Return the line of a command."""
    return json.dumps(fields).encode() + b"\n"


def pieces_of(size: int, seed: int) -> list[bytes]:
    """Return output of ``size`` bytes in pieces of random sizes."""
    chance, pieces = random.Random(seed), []
    while size > 0:
        piece = chance.randbytes(min(size, chance.choice((1, 100, 5_000, 64_000, 120_000))))
        pieces.append(piece)
        size -= len(piece)
    return pieces
