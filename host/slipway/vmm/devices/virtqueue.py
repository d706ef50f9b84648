"""Split virtqueues, from the device's side (VIRTIO 1.1, section 2.6).

The driver is hostile: each value of its rings is read once and then checked, and a broken rule ends
in :class:`DriverError`, which costs the driver its device.

The guest's other processors run meanwhile. Therefore fields of a ring are elements of cast views,
each read or written by one instruction: ``struct`` works byte by byte, and could see half of an
index. Such views have the host's byte order; rings are little-endian, like all hosts of Slipway.
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
    """Parts of a virtqueue (2.6), each at its own address."""

    DESCRIPTORS = 0
    AVAILABLE = 1  # the driver area
    USED = 2  # the device area


# As numbers: arithmetic with enums would cost more than all the rest.
_NEXT, _WRITE, _INDIRECT = map(int, DescriptorFlag)

_ALIGNMENT = {Area.DESCRIPTORS: 16, Area.AVAILABLE: 2, Area.USED: 4}
_DESCRIPTOR_SIZE = 16
# x86 keeps loads in order, and stores; only a load may overtake a store.
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
    """Complete state of a virtqueue outside of guest memory."""

    size: int
    areas: tuple[int, int, int]
    ready: bool
    next_available: int
    next_used: int
    notified: int


class Virtqueue:
    """Queue of buffer chains, which come from the available ring and go to the used ring."""

    def __init__(self, memory: Memory, maximum: int) -> None:
        self._memory = memory
        self.maximum = maximum
        # A private lock, for its atomic operations: see _fence.
        fence = Lock()
        fence.acquire()
        self._open_fence, self._close_fence = fence.release, fence.acquire
        self.reset()

    def reset(self) -> None:
        """Forget all state, and drop all views of guest memory."""
        self.size = self.maximum
        self.areas = [0, 0, 0]
        self.disable()

    def disable(self) -> None:
        """Drop the rings: the device finds no more buffers."""
        self.ready = False
        self._event_idx = self._indirect = False
        self._mask = 0
        self._next_available = self._seen = self._head = 0
        self._next_used = self._notified = 0
        # The largest number of available chains so far.
        self.depth = 0
        self._descriptors = self._available = self._used = self._elements = memoryview(b"")

    def enable(self, features: int) -> None:
        """Use the rings at ``areas``, of ``size`` chains, with the features that were negotiated.

        Raises:
            DriverError: size or alignment is invalid.
            GuestAddressError: a ring is outside of the RAM.
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
        """Return the buffers of the next chain, none of them empty; None if the ring is empty.

        The chain stays the next until :meth:`push`.

        Raises:
            DriverError: the chain is invalid, or has a buffer of the wrong direction.
            GuestAddressError: a buffer is outside of the RAM.
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
        """Mark the chain as used, with ``written`` bytes in its buffers.

        Return the number of used chains since the last :meth:`wants_interrupt`. The driver sees
        them after :meth:`publish`.
        """
        used = self._next_used
        self._elements[used & self._mask] = self._head | written << 32
        self._next_used = used = (used + 1) & _WRAP
        self._next_available = (self._next_available + 1) & _WRAP
        return (used - self._notified) & _WRAP

    def rewind(self, count: int) -> None:
        """Take back the last ``count`` calls of :meth:`push`, which are not published yet.

        Their chains are the next again.
        """
        self._next_available = (self._next_available - count) & _WRAP
        self._next_used = (self._next_used - count) & _WRAP

    def publish(self) -> None:
        """Show used chains to the driver."""
        if _WEAK:
            self._fence()  # elements before their number
        if self.ready:
            self._used[_INDEX] = self._next_used

    def wants_interrupt(self) -> bool:
        """Publish, and tell if the driver wants an interrupt for that (2.6.7.2)."""
        old, new = self._notified, self._next_used
        if old == new:
            return False
        self.publish()
        self._notified = new
        self._fence()  # the index before the driver's wish
        if self._event_idx:
            event = self._available[_RING + self.size]
            return (new - event - 1) & _WRAP < (new - old) & _WRAP
        return not self._available[_FLAGS] & _NO_INTERRUPT

    def await_more(self, count: int = 1) -> bool:
        """Request a notification at ``count`` chains; return True if they are there already.

        Otherwise the driver need not notify, and does not if it can suppress that (2.6.10): a
        notification is an exit.
        """
        if self._event_idx:
            self._used[_RING + 4 * self.size] = (self._next_available + count - 1) & _WRAP
            # The driver writes its index before it reads the event, this side the other way round:
            # one of both notices.
            self._fence()
        return self._look() and (self._seen - self._next_available) & _WRAP >= count

    def save_state(self) -> QueueState:
        """Return a copy of the state."""
        descriptors, available, used = self.areas
        return QueueState(
            size=self.size,
            areas=(descriptors, available, used),
            ready=self.ready,
            next_available=self._next_available,
            next_used=self._next_used,
            notified=self._notified,
        )

    def restore(self, state: QueueState, features: int) -> None:
        """Restore ``state``, after the guest memory.

        Raises:
            DriverError: the state is of another machine.
            GuestAddressError: the state is of another machine.
        """
        self.reset()
        self.size = state.size
        self.areas = list(state.areas)
        if state.ready:
            self.enable(features)
            self._next_available = self._seen = state.next_available
            self._next_used = state.next_used
            self._notified = state.notified

    def _look(self) -> bool:
        """Read the driver's index; return True if it is ahead of this side's."""
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
            self._fence()  # the index before the elements
        return True

    def _walk(self, head: int, writable: bool) -> list[memoryview]:
        """Return the buffers of a chain of several descriptors."""
        table, count = self._descriptors, self.size
        buffers: list[memoryview] = []
        index = head
        indirect = False
        # A chain is at most as long as its queue (2.6.5.3.1), which ends loops as well. A reference
        # to an indirect table counts extra.
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
        """Pass a memory barrier, over which no load or store moves in either direction.

        Python has no other. To release and take a lock are atomic operations. On x86 each is a
        barrier; on ARM both are, in this order: a store-release, then a load-acquire.
        """
        self._open_fence()
        self._close_fence()
