"""Protocols between devices and the rest of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# Raises one edge on the device's interrupt line; KVM's irqfd pulses, and needs no reset.
Trigger = Callable[[], None]


class Device(Protocol):
    """Registers at offsets from the address that the bus gave to the device.

    A guest may do anything with them: no access raises. ``size`` is 1, 2, 4 or 8 bytes; the bus
    splits an access to a device with byte-wide registers.
    """

    def read(self, offset: int, size: int) -> int:
        """Return the value at ``offset``, as a little-endian number."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Write ``value`` to ``offset``."""


class Backend(Protocol):
    """Host side of a serial or virtio port; its methods do not raise."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Take bytes of the guest, perhaps a view of its memory; return the number of bytes taken.

        After it has taken less than all, the backend calls the port's ``drain`` when it can take
        more, but not from this call.
        """
        ...

    def can_receive(self) -> None:
        """Note that the port has room; its ``receive`` may be called from here."""


class Memory(Protocol):
    """Guest memory as a virtqueue uses it."""

    def view(self, address: int, length: int) -> memoryview:
        """Return a view of ``length`` bytes at ``address``.

        Raises:
            GuestAddressError: part of the bytes is outside of the RAM.
        """
        ...
