"""Virtio-mmio transport: registers and queues of a virtio device (VIRTIO 1.1, section 4.2.2).

The interrupt is an edge. Linux's handler reads the status, acknowledges the bits that it read, and
then looks at every queue. That look covers all events before the acknowledgement, and the next run
of the handler those after it; a line that pulses while the handler runs makes it run again.
Therefore each event pulses, even if its status bit is still set: between read and acknowledgement,
a set bit does not promise another look. Now and then the handler finds all done.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from slipway.vmm.devices.virtqueue import DriverError, Virtqueue
from slipway.vmm.memory import GuestAddressError
from slipway.vmm.record import field, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import ClassVar

    from slipway.vmm.devices.model import Memory, Trigger
    from slipway.vmm.devices.virtqueue import QueueState

REGION_SIZE = 0x200  # of the address space, for registers and configuration


class Register(IntEnum):
    """Offsets of the registers; each is 32 bits wide."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC = 0x080  # lower half, as the next two; the upper half follows
    QUEUE_DRIVER = 0x090
    QUEUE_DEVICE = 0x0A0
    CONFIG_GENERATION = 0x0FC  # always 0: the configuration does not change
    CONFIG = 0x100


class Status(IntFlag):
    """Progress of driver and device in their negotiation (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64  # set by the device; all others by the driver
    FAILED = 128


Interrupt = IntFlag("Interrupt", "USED_BUFFER CONFIGURATION")

VERSION_1 = 1 << 32  # the feature of following the standard (6)

# Registers of the data path, as numbers: arithmetic with enums would cost more than all the rest.
_NOTIFY, _ACK = int(Register.QUEUE_NOTIFY), int(Register.INTERRUPT_ACK)
_INTERRUPT_STATUS, _CONFIG = int(Register.INTERRUPT_STATUS), int(Register.CONFIG)
_USED_BUFFER, _CONFIGURATION = map(int, Interrupt)

_IDENTITY: dict[int, int] = {
    Register.MAGIC_VALUE: int.from_bytes(b"virt", "little"),
    Register.VERSION: 2,  # 1 is the legacy interface
    Register.VENDOR_ID: int.from_bytes(b"SLPW", "little"),
}
_WORD = 0xFFFF_FFFF
_NEEDS_RESET = int(Status.DEVICE_NEEDS_RESET)
_BY_DRIVER = sum(map(int, Status)) & ~_NEEDS_RESET
_STOPPED = _NEEDS_RESET | int(Status.FAILED)
_AREAS = (Register.QUEUE_DESC, Register.QUEUE_DRIVER, Register.QUEUE_DEVICE)
_AREA_OF = {at + 4 * high: (area, 32 * high) for area, at in enumerate(_AREAS) for high in (0, 1)}


@record
class MmioState:
    """Complete state of the transport outside of guest memory; defaults are those of a reset."""

    status: int = 0
    driver_features: int = 0
    device_features_select: int = 0
    driver_features_select: int = 0
    queue_select: int = 0
    interrupt_status: int = 0
    postponed: int = 0  # a bit for each queue
    queues: list[QueueState] = field(default_factory=list)


class VirtioMmio:
    """Registers and queues of a virtio device; a subclass has its function.

    No access of a guest raises. A driver that breaks the rules is told (2.1.2), and its device
    stops until a reset; ``failures`` counts that, ``reason`` has the cause of the last.
    """

    DEVICE_ID: ClassVar[int]
    FEATURES: ClassVar[int]  # offered
    REQUIRED: ClassVar[int]  # without which the device refuses a driver
    QUEUE_SIZES: ClassVar[Sequence[int]]
    CONFIGURATION: ClassVar[bytes]

    def __init__(self, memory: Memory, trigger: Trigger) -> None:
        self.failures = 0
        self.reason = ""
        self.running = False
        self.queues = tuple(Virtqueue(memory, size) for size in self.QUEUE_SIZES)
        self._trigger = trigger
        self._mmio = MmioState()

    def reset(self) -> None:
        """Reset the device, which holds no view of guest memory then."""
        self._mmio = MmioState()
        self.running = False
        for queue in self.queues:
            queue.reset()

    def serve(self, queue: int) -> None:
        """Handle buffers that the driver has put into a queue; for the subclass.

        Raises:
            DriverError: a buffer breaks the rules.
            GuestAddressError: a buffer is outside of the RAM.
        """

    def read(self, offset: int, size: int) -> int:
        """Return ``size`` bytes at ``offset`` in the region."""
        if offset >= _CONFIG:
            start = offset - _CONFIG
            return int.from_bytes(self.CONFIGURATION[start : start + size], "little")
        if size != 4:  # 4.2.2.2
            return 0
        if offset == _INTERRUPT_STATUS:
            return self._mmio.interrupt_status
        return self._read_setup(offset)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write ``size`` bytes at ``offset`` in the region."""
        if size != 4:
            return
        value &= _WORD
        if offset == _NOTIFY:
            self.notify(value)
        elif offset == _ACK:
            self._acknowledge(value)
        elif offset == Register.STATUS:
            self._write_status(value)
        else:
            self._write_setup(offset, value)

    def notify(self, queue: int) -> None:
        """Handle the driver's notification of buffers in ``queue``, which may be any number."""
        if not self.running:  # 3.1.1: no buffer is touched before DRIVER_OK
            return
        try:
            self.serve(queue)
        except (DriverError, GuestAddressError) as error:
            self.fail(str(error))

    def notify_driver(self, *queues: Virtqueue) -> None:
        """Publish the used buffers of ``queues``; interrupt the guest if the driver wants that."""
        if sum([queue.wants_interrupt() for queue in queues]):
            self._interrupt(_USED_BUFFER)

    def postpone(self, queue: int) -> None:
        """Serve ``queue`` again after the guest has acknowledged an interrupt, which is raised now.

        For more work than one call may do, since another notification need not follow.
        """
        self._mmio.postponed |= 1 << queue
        self._interrupt(_USED_BUFFER)

    def fail(self, reason: str) -> None:
        """Stop until the driver resets the device."""
        self.failures += 1
        self.reason = reason
        self.running = False
        self._mmio.status |= _NEEDS_RESET
        if self._mmio.status & Status.DRIVER_OK:
            self._interrupt(_CONFIGURATION)

    def save_transport(self) -> MmioState:
        """Return a copy of the transport's state."""
        return replace(self._mmio, queues=[queue.save_state() for queue in self.queues])

    def restore_transport(self, state: MmioState) -> None:
        """Restore ``state``, after the guest memory.

        Raises:
            DriverError: the state is of another machine.
            GuestAddressError: the state is of another machine.
        """
        self.reset()
        self._mmio = replace(state, queues=[])
        for queue, its_state in zip(self.queues, state.queues, strict=True):
            queue.restore(its_state, state.driver_features)
        self._take_status(state.status)

    def _interrupt(self, reason: int) -> None:
        self._mmio.interrupt_status |= reason
        self._trigger()

    @property
    def _queue(self) -> Virtqueue | None:
        select = self._mmio.queue_select
        return self.queues[select] if select < len(self.queues) else None

    def _read_setup(self, offset: int) -> int:
        match offset:
            case Register.DEVICE_ID:
                return self.DEVICE_ID
            case Register.DEVICE_FEATURES:
                select = self._mmio.device_features_select
                return self.FEATURES >> 32 * select & _WORD if select < 2 else 0
            case Register.QUEUE_NUM_MAX:
                return self._queue.maximum if self._queue else 0  # 0: unknown queue
            case Register.QUEUE_READY:
                return int(self._queue is not None and self._queue.ready)
            case Register.STATUS:
                return self._mmio.status
        return _IDENTITY.get(offset, 0)

    def _write_setup(self, offset: int, value: int) -> None:
        mmio = self._mmio
        if offset == Register.QUEUE_SEL:
            mmio.queue_select = value
        elif offset == Register.DEVICE_FEATURES_SEL:
            mmio.device_features_select = value
        elif offset == Register.DRIVER_FEATURES_SEL:
            mmio.driver_features_select = value
        elif offset == Register.DRIVER_FEATURES:
            select = mmio.driver_features_select
            if select < 2 and not mmio.status & Status.FEATURES_OK:  # 3.1.1: settled then
                other = mmio.driver_features & _WORD << 32 * (1 - select)
                mmio.driver_features = other | value << 32 * select
        elif (queue := self._queue) is None:
            return
        elif offset == Register.QUEUE_READY:
            self._set_ready(queue, bool(value))
        elif queue.ready:
            return  # 4.2.2.2: no change while the queue is in use
        elif offset == Register.QUEUE_NUM:
            queue.size = value
        elif offset in _AREA_OF:
            area, shift = _AREA_OF[offset]
            queue.areas[area] = queue.areas[area] & ~(_WORD << shift) | value << shift

    def _set_ready(self, queue: Virtqueue, ready: bool) -> None:
        if not ready:
            queue.disable()
            return
        settled = self._mmio.status & (Status.FEATURES_OK | Status.DRIVER_OK | _NEEDS_RESET)
        if queue.ready or settled != Status.FEATURES_OK:  # 3.1.1: only between the two steps
            return
        try:
            queue.enable(self._mmio.driver_features)
        except (DriverError, GuestAddressError) as error:
            self.fail(str(error))

    def _acknowledge(self, value: int) -> None:
        mmio = self._mmio
        mmio.interrupt_status &= ~value
        if mmio.postponed:
            postponed, mmio.postponed = mmio.postponed, 0
            for queue in range(len(self.queues)):
                if postponed >> queue & 1:
                    self.notify(queue)

    def _write_status(self, value: int) -> None:
        status = self._mmio.status
        if not value:
            self.reset()
        if not value or status & _NEEDS_RESET:
            return
        value &= _BY_DRIVER
        if value & ~status & Status.FEATURES_OK and not self._accepts_features():
            value ^= Status.FEATURES_OK  # 3.1.1, step 6: so a device refuses
        if status & ~value:
            self.fail("a driver that takes back its status")  # 2.1.1
        elif value & Status.DRIVER_OK and not value & Status.FEATURES_OK:
            self.fail("a driver that is ready before its features are settled")
        else:
            self._take_status(value)

    def _take_status(self, value: int) -> None:
        self._mmio.status = int(value)
        self.running = value & (_STOPPED | Status.DRIVER_OK) == Status.DRIVER_OK

    def _accepts_features(self) -> bool:
        taken = self._mmio.driver_features
        return taken | self.FEATURES == self.FEATURES and taken & self.REQUIRED == self.REQUIRED
