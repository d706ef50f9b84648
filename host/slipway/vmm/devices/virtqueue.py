"""Split virtqueues as a device sees them (VIRTIO 1.1, section 2.6).

The driver is hostile: whatever it puts into its rings is checked, after it was read and not read
again, and what breaks the rules ends in :class:`DriverError`, which costs the driver its device.

The guest's other processors run on while a ring is looked at. So its fields are elements of cast
views, each read or written by one instruction: ``struct`` goes byte by byte, and would see half of
an index that is being written. Such views have the host's byte order; rings are little-endian, as
is every host that Slipway has machines for.
"""

from __future__ import annotations

import os
from enum import IntEnum, IntFlag
from threading import Lock

from slipway.vmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.devices.model import Memory


class DriverError(Exception):
    """The guest's driver has broken a rule; its device needs a reset."""


class DescriptorFlag(IntFlag):
    """Flags of a descriptor (2.6.5)."""

    NEXT = 1
    WRITE = 2  # for the device to write; without it, to read
    INDIRECT = 4


class RingFeature(IntFlag):
    """Features of virtqueues (6)."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29


class Area(IntEnum):
    """The parts of a virtqueue (2.6), each somewhere else in memory."""

    DESCRIPTORS = 0
    AVAILABLE = 1  # the driver area
    USED = 2  # the device area


# As numbers: to compute with members of an enum would cost more than the rest.
_NEXT, _WRITE, _INDIRECT = map(int, DescriptorFlag)

_ALIGNMENT = {Area.DESCRIPTORS: 16, Area.AVAILABLE: 2, Area.USED: 4}
_DESCRIPTOR_SIZE = 16
# x86 itself keeps loads in order, and stores; only a load may overtake a store.
_WEAK = os.uname().machine != "x86_64"
# Either ring begins with two fields of 16 bits, flags and idx, and ends with one: the event.
_FLAGS = 0
_INDEX = 1
_RING = 2
_FIXED_SIZE = 6
_NO_INTERRUPT = 1  # a flag of the available ring (2.6.6)
_WRAP = 0xFFFF


@record
class QueueState:
    """All of a virtqueue that is not in guest memory."""

    size: int
    areas: tuple[int, int, int]
    ready: bool
    next_available: int
    next_used: int
    told: int


class Virtqueue:
    """One queue: chains of buffers come from its available ring and go to its used ring."""

    def __init__(self, memory: Memory, maximum: int) -> None:
        self._memory = memory
        self.maximum = maximum
        # A lock that nobody else knows, for its atomic operations: see _fence.
        fence = Lock()
        fence.acquire()
        self._open_fence, self._close_fence = fence.release, fence.acquire
        self.reset()

    def reset(self) -> None:
        """Forget everything, and hold no view of guest memory any more."""
        self.size = self.maximum
        self.areas = [0, 0, 0]
        self.disable()

    def disable(self) -> None:
        """Take the rings from the device, which then finds no buffers."""
        self.ready = False
        self._event_idx = self._indirect = False
        self._mask = 0
        self._next_available = self._seen = self._head = 0
        self._next_used = self._told = 0
        # The most buffers that were ever there to take at once.
        self.depth = 0
        self._descriptors = self._available = self._used = self._elements = memoryview(b"")

    def enable(self, features: int) -> None:
        """Take the rings that ``size`` and ``areas`` describe, used by what the driver agreed to.

        Raises:
            DriverError: they are no rings.
            GuestAddressError: they are not in memory.
        """
        size = self.size
        if not 0 < size <= self.maximum or size & (size - 1):
            raise DriverError(f"a queue of {size} buffers")
        for area, alignment in _ALIGNMENT.items():
            if self.areas[area] % alignment:
                raise DriverError(f"a misaligned ring at {self.areas[area]:#x}")
        view = self._memory.view
        descriptors = view(self.areas[Area.DESCRIPTORS], _DESCRIPTOR_SIZE * size)
        available = view(self.areas[Area.AVAILABLE], _FIXED_SIZE + 2 * size)
        used = view(self.areas[Area.USED], _FIXED_SIZE + 8 * size)
        self.disable()
        self._descriptors = descriptors.cast("Q")
        self._available = available.cast("H")
        self._used = used.cast("H")
        self._elements = used[4:-2].cast("Q")
        self._mask = size - 1
        self._event_idx = bool(features & RingFeature.EVENT_IDX)
        self._indirect = bool(features & RingFeature.INDIRECT_DESC)
        self.ready = True

    def peek(self, writable: bool) -> list[memoryview] | None:
        """The next chain's buffers, of which none is empty; it stays the next until :meth:`push`.

        Raises:
            DriverError: it is not a chain of buffers, all to be written or all to be read.
            GuestAddressError: not all of it is in memory.
        """
        if self._next_available == self._seen and not self._look():
            return None
        head = self._available[_RING + (self._next_available & self._mask)]
        if head >= self.size:
            raise DriverError(f"descriptor {head} of {self.size}")
        self._head = head
        rest = self._descriptors[2 * head + 1]
        flags = rest >> 32
        if flags & (_NEXT | _INDIRECT):
            return self._walk(head, writable)
        if bool(flags & _WRITE) is not writable:
            raise DriverError("a buffer of the wrong direction")
        length = rest & 0xFFFF_FFFF
        if not length:
            raise DriverError("an empty buffer")
        return [self._memory.view(self._descriptors[2 * head], length)]

    def push(self, written: int) -> int:
        """The chain is used, with ``written`` bytes in it.

        How many are since the last :meth:`wants_interrupt`. The driver sees them after
        :meth:`publish`.
        """
        used = self._next_used
        self._elements[used & self._mask] = self._head | written << 32
        self._next_used = used = (used + 1) & _WRAP
        self._next_available = (self._next_available + 1) & _WRAP
        return (used - self._told) & _WRAP

    def publish(self) -> None:
        """Show the driver what was used."""
        if _WEAK:
            self._fence()  # what is used before how much
        if self.ready:
            self._used[_INDEX] = self._next_used

    def wants_interrupt(self) -> bool:
        """Publish, and say whether the driver wants to be told of it (2.6.7.2)."""
        old, new = self._told, self._next_used
        if old == new:
            return False
        self.publish()
        self._told = new
        self._fence()  # how much was used before whether that matters
        if self._event_idx:
            event = self._available[_RING + self.size]
            return (new - event - 1) & _WRAP < (new - old) & _WRAP
        return not self._available[_FLAGS] & _NO_INTERRUPT

    def await_more(self, count: int = 1) -> bool:
        """Ask for a notification when there are ``count`` chains; True if there are already.

        The rest of the time the driver need not notify, and does not, where it knows how to refrain
        (2.6.10): a notification is an exit.
        """
        if self._event_idx:
            self._used[_RING + 4 * self.size] = (self._next_available + count - 1) & _WRAP
            # The driver writes its index before it reads the event, and we the other way round:
            # one of the two notices.
            self._fence()
        return self._look() and (self._seen - self._next_available) & _WRAP >= count

    def save_state(self) -> QueueState:
        """A copy of the state as it is."""
        descriptors, available, used = self.areas
        return QueueState(
            size=self.size,
            areas=(descriptors, available, used),
            ready=self.ready,
            next_available=self._next_available,
            next_used=self._next_used,
            told=self._told,
        )

    def restore(self, state: QueueState, features: int) -> None:
        """Become what ``state`` says; guest memory has its content already.

        Raises:
            DriverError, GuestAddressError: that was a queue of another machine.
        """
        self.reset()
        self.size = state.size
        self.areas = list(state.areas)
        if state.ready:
            self.enable(features)
            self._next_available = self._seen = state.next_available
            self._next_used = state.next_used
            self._told = state.told

    def _look(self) -> bool:
        """Read how far the driver has got; whether that is further than we are."""
        if not self.ready:
            return False
        seen = self._available[_INDEX]
        depth = (seen - self._next_available) & _WRAP
        if not depth:
            return False
        if depth > self.size:
            raise DriverError(f"{depth} buffers in a queue of {self.size}")
        self.depth = max(self.depth, depth)
        self._seen = seen
        if _WEAK:
            self._fence()  # how many before which
        return True

    def _walk(self, head: int, writable: bool) -> list[memoryview]:
        """The buffers of a chain of several descriptors."""
        table, count = self._descriptors, self.size
        buffers: list[memoryview] = []
        index = head
        indirect = False
        # No chain is longer than its queue (2.6.5.3.1), which ends loops, too. The reference to an
        # indirect table is one more.
        for _ in range(self.size + 1):
            if index >= count:
                raise DriverError(f"descriptor {index} of {count}")
            address, rest = table[2 * index], table[2 * index + 1]
            length, flags = rest & 0xFFFF_FFFF, rest >> 32
            if not length:
                raise DriverError("an empty buffer")
            if flags & _INDIRECT:
                if indirect or not self._indirect or flags & _NEXT or length % _DESCRIPTOR_SIZE:
                    raise DriverError("an indirect table where there can be none")
                table, count = self._memory.view(address, length).cast("Q"), length // 16
                index, indirect = 0, True
                continue
            if bool(flags & _WRITE) is not writable:
                raise DriverError("a buffer of the wrong direction")
            buffers.append(self._memory.view(address, length))
            if not flags & _NEXT:
                return buffers
            index = rest >> 48
        raise DriverError("a chain longer than its queue")

    def _fence(self) -> None:
        """A memory barrier: no load or store moves across it, in either direction.

        Python has no other. Releasing and taking a lock are atomic operations, which on x86 are
        barriers each, and on ARM are one in this order: a store-release, then a load-acquire.
        """
        self._open_fence()
        self._close_fence()
