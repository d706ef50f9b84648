"""What a serial port or a virtio port is connected to: a socket of the parent's.

The socket is watched edge-triggered. Whoever can go on does: the vCPU's thread, when the guest made
room or gave bytes, and the main thread, when the socket did. Both hold the machine's lock.

Descriptors, not socket objects: what those add is not needed, and their import takes 5 ms.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Port(Protocol):
        """The device's end."""

        def receive(self, data: memoryview, /) -> int:
            """Take bytes for the guest; returns how many."""
            ...

        def drain(self) -> None:
            """The other end takes bytes again."""
            ...


READ_SIZE = 64 * 1024


class SocketBackend:
    """Loses nothing: what one side does not take, the other has to keep."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        # An eventfd that says: look at ``ended``.
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.port: Port | None = None
        self.ended = False
        self._pending = memoryview(b"")
        self._blocked = False
        self._feeding = False

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way that one side has given and the other not taken."""
        return not self._pending and not self._blocked

    def send(self, data: bytes | memoryview) -> int:
        """Take bytes of the guest's; returns how many."""
        try:
            taken = os.write(self.descriptor, data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.ended = True
            os.eventfd_write(self.wake, 1)
            return len(data)  # nobody reads any more, and the machine is about to end
        self._blocked = taken < len(data)
        return taken

    def can_receive(self) -> None:
        """Give the guest what has come for it, as much as it takes now."""
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
        """The socket has become readable or writable, or both."""
        self.can_receive()
        if self._blocked and self.port is not None:
            self._blocked = False
            self.port.drain()


class ConsoleBackend:
    """Never stops a guest: what nobody reads in time is dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.dropped = 0

    def send(self, data: bytes | memoryview) -> int:
        """Pass on what fits, forget the rest."""
        try:
            sent = os.write(self.descriptor, data)
        except OSError:
            sent = 0
        self.dropped += len(data) - sent
        return len(data)

    def can_receive(self) -> None:
        """Nobody types at this console."""
