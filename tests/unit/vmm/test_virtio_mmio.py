"""The registers of a virtio device that only keeps a diary."""

from __future__ import annotations

import pytest

from slipway.vmm.devices.virtio_mmio import (
    REGION_SIZE,
    VERSION_1,
    Interrupt,
    Register,
    Status,
    VirtioMmio,
)
from slipway.vmm.devices.virtqueue import DriverError, RingFeature
from slipway.vmm.memory import GuestAddressError
from support.virtio_driver import RAM_START, FakeMemory

OWN_FEATURE = 1 << 5
WORD = 0xFFFF_FFFF


class Diary(VirtioMmio):
    """Has two queues."""

    DEVICE_ID = 42
    FEATURES = VERSION_1 | RingFeature.EVENT_IDX | OWN_FEATURE
    REQUIRED = VERSION_1
    QUEUE_SIZES = (16, 64)
    CONFIGURATION = bytes(range(1, 13))

    def __init__(self, memory: FakeMemory) -> None:
        self.pulses = 0
        self.served: list[int] = []
        self.error: Exception | None = None
        super().__init__(memory, self._pulse)

    def _pulse(self) -> None:
        self.pulses += 1

    def signal(self) -> None:
        self._interrupt(Interrupt.USED_BUFFER)

    def serve(self, queue: int) -> None:
        self.served.append(queue)
        if self.error:
            raise self.error


class Driver:
    """Reads and writes registers by name."""

    def __init__(self) -> None:
        self.memory = FakeMemory(1 << 16)
        self.device = Diary(self.memory)

    def read(self, register: int) -> int:
        return self.device.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.device.write(register, 4, value)

    @property
    def status(self) -> int:
        return self.read(Register.STATUS)

    def accept(self, features: int = VERSION_1) -> None:
        for half in (0, 1):
            self.write(Register.DRIVER_FEATURES_SEL, half)
            self.write(Register.DRIVER_FEATURES, features >> 32 * half & WORD)
        self.write(Register.STATUS, self.status | Status.FEATURES_OK)

    def features_ok(self) -> None:
        self.write(Register.STATUS, Status.ACKNOWLEDGE)
        self.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        self.accept()

    def describe(self, index: int, size: int = 16, offset: int = 0) -> None:
        self.write(Register.QUEUE_SEL, index)
        self.write(Register.QUEUE_NUM, size)
        for register in (Register.QUEUE_DESC, Register.QUEUE_DRIVER, Register.QUEUE_DEVICE):
            address = self.memory.allocate(1024, 4096) + offset
            self.write(register, address & WORD)
            self.write(register + 4, address >> 32)

    def make_ready(self) -> int:
        self.write(Register.QUEUE_READY, 1)
        return self.read(Register.QUEUE_READY)

    def go(self) -> None:
        self.features_ok()
        self.write(Register.STATUS, self.status | Status.DRIVER_OK)


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def device(driver: Driver) -> Diary:
    return driver.device


def needs_reset(driver: Driver) -> bool:
    return bool(driver.status & Status.DEVICE_NEEDS_RESET)


class TestRegisters:
    def test_say_what_the_device_is(self, driver: Driver) -> None:
        assert driver.read(Register.MAGIC_VALUE).to_bytes(4, "little") == b"virt"
        assert driver.read(Register.VERSION) == 2
        assert driver.read(Register.DEVICE_ID) == 42
        assert driver.read(Register.VENDOR_ID) != 0
        assert driver.read(Register.CONFIG_GENERATION) == 0

    @pytest.mark.parametrize("size", [1, 2, 8])
    def test_are_32_bits_wide(self, driver: Driver, device: Diary, size: int) -> None:
        assert device.read(Register.MAGIC_VALUE, size) == 0
        device.write(Register.STATUS, size, Status.ACKNOWLEDGE)
        assert driver.status == 0

    def test_at_odd_offsets_are_none(self, driver: Driver) -> None:
        for offset in range(Register.CONFIG):
            if offset % 4:
                driver.write(offset, WORD)
                assert driver.read(offset) == 0

    def test_that_are_to_be_written_read_as_0(self, driver: Driver) -> None:
        driver.describe(0)
        for offset in (
            *(Register.DRIVER_FEATURES, Register.QUEUE_SEL, Register.QUEUE_NUM),
            *(Register.QUEUE_NOTIFY, Register.INTERRUPT_ACK, Register.QUEUE_DESC),
        ):
            assert driver.read(offset) == 0

    def test_config_is_read_in_any_width(self, device: Diary) -> None:
        config = Register.CONFIG
        assert device.read(config, 1) == 1
        assert device.read(config + 2, 2) == 0x0403
        assert device.read(config + 4, 4) == 0x08070605
        assert device.read(config + 1, 8) == 0x0908070605040302
        assert device.read(config + 10, 4) == 0x0C0B
        assert device.read(REGION_SIZE - 4, 4) == 0

    def test_config_is_not_written(self, device: Diary) -> None:
        device.write(Register.CONFIG, 4, WORD)
        assert device.read(Register.CONFIG, 4) == 0x04030201


class TestFeatures:
    def test_are_offered_in_halves(self, driver: Driver) -> None:
        halves = []
        for half in (0, 1, 2, WORD):
            driver.write(Register.DEVICE_FEATURES_SEL, half)
            halves.append(driver.read(Register.DEVICE_FEATURES))

        assert halves == [RingFeature.EVENT_IDX | OWN_FEATURE, 1, 0, 0]

    @pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | OWN_FEATURE, Diary.FEATURES])
    def test_that_were_offered_are_accepted(self, driver: Driver, features: int) -> None:
        driver.accept(features)
        assert driver.status & Status.FEATURES_OK

    @pytest.mark.parametrize(
        "features", [0, OWN_FEATURE, VERSION_1 | 1, VERSION_1 | 1 << 33, VERSION_1 | 1 << 63]
    )
    def test_that_were_not_offered_are_refused(self, driver: Driver, features: int) -> None:
        driver.accept(features)
        assert not driver.status & Status.FEATURES_OK

        driver.accept(VERSION_1)  # it may think again
        assert driver.status & Status.FEATURES_OK

    def test_beyond_64_are_nothing(self, driver: Driver) -> None:
        driver.write(Register.DRIVER_FEATURES_SEL, 2)
        driver.write(Register.DRIVER_FEATURES, WORD)
        driver.accept()
        assert driver.status & Status.FEATURES_OK

    def test_stay_when_they_are_settled(self, driver: Driver, device: Diary) -> None:
        driver.accept(VERSION_1)
        driver.write(Register.DRIVER_FEATURES_SEL, 0)
        driver.write(Register.DRIVER_FEATURES, WORD)
        assert device.save_transport().driver_features == VERSION_1


class TestStatus:
    def test_runs_when_the_driver_does(self, driver: Driver, device: Diary) -> None:
        driver.features_ok()
        assert not device.running
        driver.write(Register.STATUS, driver.status | Status.DRIVER_OK)
        assert device.running

    def test_a_driver_that_has_given_up(self, driver: Driver, device: Diary) -> None:
        driver.go()
        driver.write(Register.STATUS, driver.status | Status.FAILED)
        driver.write(Register.QUEUE_NOTIFY, 0)
        assert device.served == []
        assert not needs_reset(driver)

    def test_bits_are_not_taken_back(self, driver: Driver, device: Diary) -> None:
        driver.go()
        driver.write(Register.STATUS, Status.ACKNOWLEDGE)
        assert needs_reset(driver)
        assert "takes back" in device.reason

    def test_driver_ok_comes_after_features_ok(self, driver: Driver, device: Diary) -> None:
        driver.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK)
        assert needs_reset(driver)
        assert not device.running

    def test_driver_ok_with_features_that_are_refused(self, driver: Driver, device: Diary) -> None:
        driver.write(Register.STATUS, Status.FEATURES_OK | Status.DRIVER_OK)
        assert needs_reset(driver)
        assert not device.running

    def test_needs_reset_is_not_the_drivers_to_set(self, driver: Driver) -> None:
        driver.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DEVICE_NEEDS_RESET | 0xFF30)
        assert driver.status == Status.ACKNOWLEDGE

    def test_reset(self, driver: Driver, device: Diary) -> None:
        driver.features_ok()
        driver.describe(1)
        assert driver.make_ready()
        driver.write(Register.STATUS, driver.status | Status.DRIVER_OK)
        device.signal()

        driver.write(Register.STATUS, 0)

        assert device.save_transport() == Diary(driver.memory).save_transport()
        assert not device.running


class TestQueues:
    def test_have_their_size(self, driver: Driver) -> None:
        sizes = []
        for index in (0, 1, 2, WORD):
            driver.write(Register.QUEUE_SEL, index)
            sizes.append(driver.read(Register.QUEUE_NUM_MAX))
        assert sizes == [16, 64, 0, 0]

    def test_become_ready(self, driver: Driver, device: Diary) -> None:
        driver.features_ok()
        driver.describe(1, 32)
        assert driver.make_ready() == 1
        driver.write(Register.QUEUE_SEL, 0)
        assert driver.read(Register.QUEUE_READY) == 0
        assert [queue.ready for queue in device.queues] == [False, True]
        assert all(area >= RAM_START for area in device.queues[1].areas)
        assert device.queues[1].size == 32

    def test_that_do_not_exist(self, driver: Driver) -> None:
        driver.features_ok()
        driver.describe(2)
        assert driver.make_ready() == 0
        assert not needs_reset(driver)

    def test_are_ready_only_between_features_and_driver(self, driver: Driver) -> None:
        driver.describe(0)
        assert driver.make_ready() == 0
        driver.go()
        assert driver.make_ready() == 0
        assert not needs_reset(driver)

    def test_keep_what_they_have_while_they_are_ready(self, driver: Driver, device: Diary) -> None:
        driver.features_ok()
        driver.describe(0)
        assert driver.make_ready()
        before = device.queues[0].save_state()

        for register in (Register.QUEUE_NUM, Register.QUEUE_DESC, Register.QUEUE_DEVICE + 4):
            driver.write(register, 3)
        driver.write(Register.QUEUE_READY, 1)

        assert device.queues[0].save_state() == before

    def test_can_be_taken_back(self, driver: Driver, device: Diary) -> None:
        driver.features_ok()
        driver.describe(0)
        assert driver.make_ready()
        driver.write(Register.QUEUE_READY, 0)
        assert driver.read(Register.QUEUE_READY) == 0
        driver.describe(0, 8)
        assert device.queues[0].areas == [RAM_START + 4096 * page for page in (3, 4, 5)]
        assert driver.make_ready()

    @pytest.mark.parametrize("size", [0, 12, 32, WORD])
    def test_of_a_wrong_size(self, driver: Driver, device: Diary, size: int) -> None:
        driver.features_ok()
        driver.describe(0, size)
        assert driver.make_ready() == 0
        assert needs_reset(driver)
        assert device.reason == f"a queue of {size} buffers"
        assert device.pulses == 0  # no driver is there to hear it (2.1.2)

    @pytest.mark.parametrize("offset", [1, -(1 << 33), 1 << 33])
    def test_at_a_wrong_place(self, driver: Driver, offset: int) -> None:
        driver.features_ok()
        driver.describe(0, 16, offset)
        assert driver.make_ready() == 0
        assert needs_reset(driver)
        driver.write(Register.QUEUE_SEL, 1)
        driver.describe(1)
        assert driver.make_ready() == 0  # nothing goes on before the reset


class TestNotifications:
    def test_are_served(self, driver: Driver, device: Diary) -> None:
        driver.go()
        driver.write(Register.QUEUE_NOTIFY, 1)
        device.notify(0)
        assert device.served == [1, 0]

    def test_before_driver_ok_are_not(self, driver: Driver, device: Diary) -> None:
        driver.features_ok()
        driver.write(Register.QUEUE_NOTIFY, 1)
        assert device.served == []

    @pytest.mark.parametrize("error", [DriverError("so bad"), GuestAddressError("so bad")])
    def test_of_rubbish_end_it_until_a_reset(
        self, driver: Driver, device: Diary, error: Exception
    ) -> None:
        driver.go()
        device.error = error
        driver.write(Register.QUEUE_NOTIFY, 1)

        assert needs_reset(driver)
        assert (device.failures, device.reason) == (1, "so bad")
        assert driver.read(Register.INTERRUPT_STATUS) == Interrupt.CONFIGURATION
        assert device.pulses == 1
        driver.write(Register.QUEUE_NOTIFY, 1)
        driver.write(Register.STATUS, 0xFF)
        driver.write(Register.QUEUE_NOTIFY, 1)
        assert device.served == [1]

        device.error = None
        driver.write(Register.STATUS, 0)
        driver.go()
        driver.write(Register.QUEUE_NOTIFY, 0)
        assert device.served == [1, 0]
        assert device.failures == 1


class TestInterrupts:
    def test_pulse_each_time(self, driver: Driver, device: Diary) -> None:
        driver.go()
        device.signal()
        device.signal()
        assert device.pulses == 2
        assert driver.read(Register.INTERRUPT_STATUS) == Interrupt.USED_BUFFER

    def test_are_acknowledged_one_by_one(self, driver: Driver, device: Diary) -> None:
        driver.go()
        device.signal()
        device.fail("for a reason")
        assert driver.read(Register.INTERRUPT_STATUS) == 3
        driver.write(Register.INTERRUPT_ACK, Interrupt.USED_BUFFER)
        assert driver.read(Register.INTERRUPT_STATUS) == Interrupt.CONFIGURATION
        driver.write(Register.INTERRUPT_ACK, WORD)
        assert driver.read(Register.INTERRUPT_STATUS) == 0

    def test_between_reading_and_acknowledging_are_not_lost(
        self, driver: Driver, device: Diary
    ) -> None:
        driver.go()
        device.signal()
        status = driver.read(Register.INTERRUPT_STATUS)
        device.fail("for a reason")  # its bit is not acknowledged, and there is a pulse for it
        driver.write(Register.INTERRUPT_ACK, status)
        assert driver.read(Register.INTERRUPT_STATUS) == Interrupt.CONFIGURATION
        assert device.pulses == 2

    def test_postponed_work_is_done_when_one_is_acknowledged(
        self, driver: Driver, device: Diary
    ) -> None:
        driver.go()
        device.postpone(1)
        assert device.pulses == 1
        assert device.served == []

        driver.write(Register.INTERRUPT_ACK, 1)
        driver.write(Register.INTERRUPT_ACK, 1)

        assert device.served == [1]

    def test_work_of_several_queues_is_postponed_at_once(
        self, driver: Driver, device: Diary
    ) -> None:
        driver.go()
        device.postpone(1)
        device.postpone(0)

        driver.write(Register.INTERRUPT_ACK, 1)

        assert device.served == [0, 1]


def test_a_device_goes_on_from_its_state(driver: Driver, device: Diary) -> None:
    driver.features_ok()
    driver.describe(1)
    driver.make_ready()
    driver.write(Register.STATUS, driver.status | Status.DRIVER_OK)
    device.postpone(0)
    state = device.save_transport()

    other = Diary(driver.memory)
    other.restore_transport(state)

    assert other.save_transport() == state
    assert other.running
    assert other.pulses == 0
    other.write(Register.INTERRUPT_ACK, 4, 1)
    assert other.served == [0]
    assert state == device.save_transport()  # a copy


def test_a_broken_device_stays_broken(driver: Driver, device: Diary) -> None:
    driver.go()
    device.fail("for a reason")

    other = Diary(driver.memory)
    other.restore_transport(device.save_transport())

    assert not other.running
    assert other.read(Register.STATUS, 4) & Status.DEVICE_NEEDS_RESET
