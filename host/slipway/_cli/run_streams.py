"""The descriptors 0 to 2 of ``slipway run`` as the program's streams."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway._cli.terminal import DescriptorWorker, write_all
from slipway._model.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ_SIZE = 64 * 1024


async def standard_input() -> AsyncIterator[bytes]:
    """What comes on our stdin."""
    worker = DescriptorWorker()
    while True:
        try:
            data = await worker.call(lambda: os.read(0, READ_SIZE))
        except OSError:  # closed, or a directory: to the program that is an empty stdin
            return
        if not data:
            return
        yield data


async def no_input() -> AsyncIterator[bytes]:
    """The stdin of a program whose source has used ours up."""
    return
    yield b""


class StandardOutput:
    """Writes a program's output to ours; while that takes nothing, so does the program wait."""

    def __init__(self) -> None:
        self._workers = {"stdout": (1, DescriptorWorker()), "stderr": (2, DescriptorWorker())}

    async def write(self, _phase: str, stream: str, data: bytes) -> None:
        """Write ``data`` to ``stream``.

        Raises:
            BrokenPipeError: nobody reads it any more.
            HostError: it cannot be written.
        """
        descriptor, worker = self._workers[stream]
        try:
            await worker.call(lambda: write_all(descriptor, data))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HostError(f"cannot write to {stream}: {error.strerror}") from None
