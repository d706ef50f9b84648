"""Console of a guest: its last lines, which explain a failure."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

# Room for a kernel panic with registers and call trace. A guest may write without end.
KEPT_BYTES = 32 * 1024
# Bytes that a terminal may obey instead of showing: all but printable ASCII, tab and newline. In
# UTF-8, bytes from 0x80 on may be control characters as well.
_OBEYED = bytes(b for b in range(256) if not 0x20 <= b < 0x7F and b not in b"\t\n")


class Console:
    """Reader of the console's socket: keeps the last 32 KiB; copies all to stderr if ``echo``."""

    def __init__(self, echo: bool = False) -> None:
        self._tail = bytearray()
        self._echo = echo
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Start to read."""
        self._writer = writer
        self._task = asyncio.create_task(self._pump(reader))

    async def _pump(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(4096):
            self._tail += data
            del self._tail[:-KEPT_BYTES]
            if self._echo:
                with suppress(OSError):  # stderr is closed; the tail is kept all the same
                    os.write(sys.stderr.fileno(), data.translate(None, _OBEYED))

    async def wait_drained(self) -> None:
        """Wait until the guest has closed its end and all is read, for a second at most."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=1)

    def get_last_lines(self, count: int = 12) -> list[str]:
        """Return the last lines that are not empty, without control characters."""
        text = self._tail.decode("utf-8", "replace")
        lines = ("".join(c for c in line if c.isprintable()) for line in text.splitlines())
        return [line for line in lines if line.strip()][-count:]

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):  # the machine may have gone first
                await self._writer.wait_closed()
