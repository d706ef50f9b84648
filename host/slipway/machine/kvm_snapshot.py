"""Files of a snapshot, made of the pieces that a VMM sends.

The VMM may be controlled by its guest. Therefore the parent makes the files, and checks order
and bounds of each piece before it writes. One piece at a time is in this process's memory.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway._util.text import to_plain_line
from slipway.machine import memory_files
from slipway.vmm.process import control
from slipway.vmm.snapshot import pieces
from slipway.vmm.snapshot import state_file as snapshot

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from slipway.vmm.pages import Range
    from slipway.vmm.spec import VmConfig

SAVE_SECONDS = 120.0
_MEMORY_NAME, _STATE_NAME = "slipway-memory", "slipway-state"


class SnapshotReceiver:
    """Receiver of one snapshot from ``channel``, a copy of a VMM's, for a thread of its own."""

    def __init__(self, channel: socket.socket, memory_bytes: int) -> None:
        """Make the file of the memory.

        Raises:
            HostError: the host has no room for the file.
        """
        self._channel = channel
        self._deadline = time.monotonic() + SAVE_SECONDS
        self._size = memory_bytes
        self._written = 0
        self._state = bytearray()
        # The message behind the last piece; empty if the VMM has ended.
        self.message = b""
        self.memory = memory_files.create(_MEMORY_NAME, memory_bytes)

    def receive(self) -> None:
        """Store pieces until another message comes, which is then in ``message``.

        Raises:
            HostError: a piece is invalid, or the VMM sends nothing for too long.
        """
        buffer = bytearray(control.MAX_MESSAGE)
        view = memoryview(buffer)
        try:
            while size := self._receive_message(buffer):
                if buffer[0] not in (pieces.OF_MEMORY, pieces.OF_STATE):
                    self.message = bytes(view[:size])
                    return
                if size <= pieces.PIECE.size:
                    raise _build_error()
                kind, start = pieces.PIECE.unpack_from(buffer)
                self.store_piece(kind, start, view[pieces.PIECE.size : size])
        except OSError as error:
            raise HostError(f"a snapshot cannot be taken: {error.strerror}") from None

    def _receive_message(self, buffer: bytearray) -> int:
        """Receive the next message into ``buffer``; return its length, 0 at the end."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            rest = self._deadline - time.monotonic()
            if rest <= 0 or not poll.poll(rest * 1000):
                raise HostError(f"the VMM did not send its snapshot within {SAVE_SECONDS:g} s")
            try:
                return self._channel.recv_into(buffer)
            except BlockingIOError:
                continue
            except ConnectionError:
                return 0

    def store_piece(self, kind: int, start: int, data: memoryview) -> None:
        """Keep ``data`` of memory or state, from byte ``start`` on.

        Raises:
            HostError: the piece is out of order or out of bounds.
        """
        if kind == pieces.OF_STATE:
            if start != len(self._state) or start + len(data) > snapshot.MAX_BYTES:
                raise _build_error()
            self._state += data
            return
        # Ascending order bounds the number of pieces.
        if start < self._written or start + len(data) > self._size:
            raise _build_error()
        self._written = start + len(data)
        while data:
            count = os.pwrite(self.memory, data, start)
            start, data = start + count, data[count:]

    def create_state_file(self, config: VmConfig) -> int:
        """Return the descriptor of the state's file, after the last piece; both files are sealed.

        Raises:
            HostError: the state is invalid, or of a VM with another configuration.
        """
        body = bytes(self._state)
        saved = snapshot.decode_body(body)
        if saved.config != config:
            raise _build_error()
        memory_files.seal(self.memory)
        return create_sealed_file(snapshot.seal(body))


def _build_error() -> HostError:
    return HostError("the VMM sent an invalid snapshot of its machine")


def create_sealed_file(data: bytes) -> int:
    """Return the descriptor of a sealed file with the state ``data``.

    Raises:
        HostError: the host has no room for the file.
    """
    with ExitStack() as undo:
        descriptor = memory_files.create(_STATE_NAME)
        undo.callback(os.close, descriptor)
        try:
            os.pwrite(descriptor, data, 0)
        except OSError as error:
            raise HostError(f"a snapshot cannot be kept in memory: {error.strerror}") from None
        memory_files.seal(descriptor)
        undo.pop_all()
    return descriptor


async def receive_snapshot(
    channel: socket.socket, config: VmConfig, understand: Callable[[bytes], None]
) -> tuple[int, int]:
    """Return the descriptors of memory and state, which a VMM sends over ``channel``.

    Another message than the expected ones is passed to ``understand``.

    Raises:
        HostError: the VMM refuses, sends invalid pieces, or has ended.
    """
    try:
        copy = channel.dup()
    except OSError as error:
        raise HostError(f"a snapshot cannot be taken: {error.strerror}") from None
    with copy, ExitStack() as undo:
        receiver = SnapshotReceiver(copy, config.memory_bytes)
        undo.callback(os.close, receiver.memory)
        # A thread cannot be cancelled; it ends when the VMM does, at the latest.
        receiving = asyncio.create_task(asyncio.to_thread(receiver.receive))
        try:
            await asyncio.shield(receiving)
        except asyncio.CancelledError:
            await asyncio.wait([receiving])
            receiving.exception()
            raise
        verb, texts = control.decode(receiver.message)
        if verb == control.SAVED:
            state = receiver.create_state_file(config)
            undo.pop_all()
            return receiver.memory, state
        if verb == control.REFUSED:
            raise HostError(
                to_plain_line(texts.get("message", "")), to_plain_line(texts.get("hint", ""))
            )
        understand(receiver.message)
        raise HostError("the VMM has ended")


def parse_ranges(text: str, size: int) -> list[Range]:
    """Return the ranges that a VMM reports of ``size`` bytes of memory; empty for invalid text."""
    ranges = []
    for word in text.split(" ")[: snapshot.MAX_RANGES]:
        first, _, second = word.partition("-")
        try:
            start, end = int(first, 16), int(second, 16)
        except ValueError:
            return []
        if not 0 <= start < end <= size:
            return []
        ranges.append((start, end))
    return ranges


def add_working_set(state: int, ranges: Sequence[Range]) -> int:
    """Return the descriptor of a copy of the file ``state``, with the working set ``ranges``.

    Raises:
        HostError: the state or a range is invalid, or the host has no room for the file.
    """
    return create_sealed_file(snapshot.add_working_set(snapshot.read(state), ranges))
