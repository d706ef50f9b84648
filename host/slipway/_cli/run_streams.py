"""Descriptors 0 to 2 of ``slipway run``, as the streams of the program."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._cli.descriptors import DescriptorWorker, write_all
from slipway._util.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ_SIZE = 64 * 1024


async def read_stdin() -> AsyncIterator[bytes]:
    """Yield the data of our stdin."""
    worker = DescriptorWorker()
    while True:
        try:
            data = await worker.call(lambda: os.read(0, READ_SIZE))
        except OSError:  # closed, or a directory: an empty stdin for the program
            return
        if not data:
            return
        yield data


async def read_nothing() -> AsyncIterator[bytes]:
    """Yield nothing: our stdin was the source."""
    return
    yield b""


class StandardOutput:
    """Writer of the program's output to ours; the program waits while ours is blocked."""

    def __init__(self) -> None:
        self._workers = {"stdout": (1, DescriptorWorker()), "stderr": (2, DescriptorWorker())}

    async def write(self, _phase: str, stream: str, data: bytes) -> None:
        """Write ``data`` to ``stream``.

        Raises:
            BrokenPipeError: the reader has closed the stream.
            HostError: the stream cannot be written.
        """
        descriptor, worker = self._workers[stream]
        try:
            await worker.call(lambda: write_all(descriptor, data))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HostError(f"cannot write to {stream}: {error.strerror}") from None
