"""What a device is to the rest of the machine, and what the rest is to a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# One edge on the device's interrupt line. There is nothing to take back: KVM's irqfd pulses.
Trigger = Callable[[], None]


class Device(Protocol):
    """Registers at offsets from where the bus has put the device.

    A guest may do anything to them: no access raises. ``size`` is 1, 2, 4 or 8 bytes; what a device
    of byte-wide registers is asked in one piece the bus has split.
    """

    def read(self, offset: int, size: int) -> int:
        """The value there, as a little-endian number."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Put ``value`` there."""


class Backend(Protocol):
    """What a serial or virtio port is connected to; it does not raise."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Take what the guest sent, perhaps as a view of its memory; how many, from none to all.

        After it has not taken all, the line says by the port's ``drain`` when it can take more, but
        not from here.
        """
        ...

    def can_receive(self) -> None:
        """The port can be given more by its ``receive``, which may be called from here."""


class Memory(Protocol):
    """What a virtqueue needs of guest memory."""

    def view(self, address: int, length: int) -> memoryview:
        """The ``length`` bytes at ``address``; GuestAddressError unless all of them are RAM."""
        ...
