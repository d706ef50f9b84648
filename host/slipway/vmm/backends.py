"""Backends of a serial or virtio port: sockets of the parent.

A socket is watched edge-triggered. The thread that can continue does: a vCPU's thread after the
guest made room or gave bytes, the main thread after the socket did. Both hold the machine's lock.

Backends hold descriptors instead of socket objects, whose module takes 5 ms to import.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Port(Protocol):
        """Device's side of a backend."""

        def receive(self, data: memoryview, /) -> int:
            """Take bytes for the guest; return their number."""
            ...

        def drain(self) -> None:
            """Continue to send: the backend accepts bytes again."""
            ...


READ_SIZE = 64 * 1024


class SocketBackend:
    """Backend that loses no byte: each side keeps the bytes that the other does not accept."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        # Eventfd, written when ``ended`` is set.
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.port: Port | None = None
        self.ended = False
        self._pending = memoryview(b"")
        self._blocked = False
        self._feeding = False

    @property
    def quiet(self) -> bool:
        """True if no byte is on its way between the two sides."""
        return not self._pending and not self._blocked

    def send(self, data: bytes | memoryview) -> int:
        """Send bytes of the guest; return the number of those that were accepted."""
        try:
            taken = os.write(self.descriptor, data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.ended = True
            os.eventfd_write(self.wake, 1)
            return len(data)  # without a reader, the machine is about to end
        self._blocked = taken < len(data)
        return taken

    def can_receive(self) -> None:
        """Give the guest the bytes that have come, as many as it accepts now."""
        if self._feeding or self.port is None:
            return
        self._feeding = True
        try:
            while not self.ended:
                if not self._pending and not self._fill():
                    return
                taken = self.port.receive(self._pending)
                self._pending = self._pending[taken:]
                if self._pending:
                    return
        finally:
            self._feeding = False

    def _fill(self) -> bool:
        try:
            self._pending = memoryview(os.read(self.descriptor, READ_SIZE))
        except BlockingIOError:
            return False
        except OSError:
            self.ended = True
            return False
        if not self._pending:
            self.ended = True  # the parent has closed its end
        return bool(self._pending)

    def ready(self) -> None:
        """Continue after the socket became readable or writable, or both."""
        self.can_receive()
        if self._blocked and self.port is not None:
            self._blocked = False
            self.port.drain()


class ConsoleBackend:
    """Backend that never stops a guest: bytes without a reader in time are dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.dropped = 0

    def send(self, data: bytes | memoryview) -> int:
        """Send the bytes that fit, and drop the rest; return the number of all."""
        try:
            sent = os.write(self.descriptor, data)
        except OSError:
            sent = 0
        self.dropped += len(data) - sent
        return len(data)

    def can_receive(self) -> None:
        """Ignore the call: this console has no input."""
