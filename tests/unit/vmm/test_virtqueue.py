"""Split virtqueues, against a driver that does as Linux does and one that does not."""

from __future__ import annotations

import pytest

from slipway.vmm.devices.virtqueue import (
    Area,
    DescriptorFlag,
    DriverError,
    RingFeature,
    Virtqueue,
)
from slipway.vmm.memory import GuestAddressError, GuestMemory
from support.virtio_driver import RAM_START, FakeMemory, Vring

NEXT, WRITE, INDIRECT = DescriptorFlag
BOTH = int(RingFeature.EVENT_IDX | RingFeature.INDIRECT_DESC)


class Doorbell:
    """Counts notifications."""

    def __init__(self) -> None:
        self.rung = 0

    def read(self, offset: int, size: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, size: int, value: int) -> None:
        self.rung += 1


class Pair:
    """A queue and its driver."""

    def __init__(self, size: int = 8, features: int = BOTH) -> None:
        self.memory = FakeMemory(1 << 16)
        self.bell = Doorbell()
        self.driver = Vring(self.memory, self.bell, 0, size)
        self.driver.event_idx = bool(features & RingFeature.EVENT_IDX)
        self.driver.indirect = bool(features & RingFeature.INDIRECT_DESC)
        self.buffer = self.memory.allocate(4096)
        self.features = features
        self.queue = self.attach()

    def attach(self) -> Virtqueue:
        queue = Virtqueue(self.memory, 256)
        queue.size = self.driver.size
        queue.areas = [self.driver.descriptors, self.driver.available, self.driver.used]
        queue.enable(self.features)
        return queue

    def add(self, length: int = 16, *, writable: bool = False) -> int:
        return self.driver.add([(self.buffer, length)], writable=writable)

    def use(self, written: int = 0, *, writable: bool = False) -> None:
        assert self.queue.peek(writable) is not None
        self.queue.push(written)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def sizes(chain: list[memoryview] | None) -> list[int]:
    assert chain is not None
    return [len(buffer) for buffer in chain]


class TestChains:
    def test_nothing_there(self, pair: Pair) -> None:
        assert pair.queue.peek(False) is None

    def test_a_buffer_is_a_view_of_guest_memory(self, pair: Pair) -> None:
        pair.memory.put(pair.buffer, b"from the guest")
        pair.add(14)
        pair.add(5, writable=True)

        chain = pair.queue.peek(False)
        assert chain is not None
        assert bytes(chain[0]) == b"from the guest"
        pair.queue.push(0)
        chain = pair.queue.peek(True)
        assert chain is not None
        chain[0][:] = b"hello"

        assert pair.memory.get(pair.buffer, 5) == b"hello"

    def test_it_stays_the_next_until_it_is_pushed(self, pair: Pair) -> None:
        pair.add(1)
        pair.add(2)

        assert sizes(pair.queue.peek(False)) == [1]
        assert sizes(pair.queue.peek(False)) == [1]
        pair.queue.push(0)
        assert sizes(pair.queue.peek(False)) == [2]

    def test_taken_back_they_are_the_next_again_and_no_driver_has_seen_them(
        self, pair: Pair
    ) -> None:
        for size in (1, 2, 3):
            pair.add(size)
        pair.use()
        pair.queue.publish()
        pair.use()
        pair.use()

        pair.queue.rewind(2)
        pair.queue.publish()

        assert pair.driver.get() == (0, 0)
        assert pair.driver.get() is None
        assert sizes(pair.queue.peek(False)) == [2]
        pair.queue.push(0)
        assert sizes(pair.queue.peek(False)) == [3]

    @pytest.mark.parametrize("features", [BOTH, int(RingFeature.EVENT_IDX)])
    def test_several_buffers(self, features: int) -> None:
        pair = Pair(features=features)
        pieces = [(pair.buffer, 1), (pair.buffer + 10, 20), (pair.buffer + 100, 300)]

        pair.driver.add(pieces, writable=True)

        assert sizes(pair.queue.peek(True)) == [1, 20, 300]

    def test_descriptors_before_an_indirect_table(self, pair: Pair) -> None:
        table = pair.memory.allocate(32)
        pair.memory.write(table, "<QIHH", pair.buffer, 3, NEXT, 1)
        pair.memory.write(table + 16, "<QIHH", pair.buffer, 4, 0, 0)
        pair.driver.describe(5, pair.buffer, 2, NEXT, 6)
        # The table's own direction is to be ignored (2.6.5.3.2).
        pair.driver.describe(6, table, 32, INDIRECT | WRITE)
        pair.driver.offer(5)

        assert sizes(pair.queue.peek(False)) == [2, 3, 4]

    def test_as_long_as_the_queue(self, pair: Pair) -> None:
        pair.driver.indirect = False
        pair.driver.add([(pair.buffer, 1)] * 8, writable=False)

        assert sizes(pair.queue.peek(False)) == [1] * 8

    def test_an_indirect_table_as_long_as_the_queue(self, pair: Pair) -> None:
        pair.driver.add([(pair.buffer, 1)] * 8, writable=False)

        assert sizes(pair.queue.peek(False)) == [1] * 8


class TestBrokenChains:
    @pytest.mark.parametrize(
        ("descriptors", "reason"),
        [
            ([(0, 16, WRITE, 0)], "direction"),
            ([(0, 16, NEXT, 1), (0, 16, WRITE, 0)], "direction"),
            ([(0, 0, 0, 0)], "empty"),
            ([(0, 16, NEXT, 1), (0, 0, 0, 0)], "empty"),
            ([(0, 16, NEXT, 0)], "longer than its queue"),
            ([(0, 16, NEXT, 1), (0, 16, NEXT, 0)], "longer than its queue"),
            ([(0, 16, NEXT, 8)], "descriptor 8 of 8"),
            ([(0, 16, NEXT, 0xFFFF)], "descriptor 65535 of 8"),
            ([(0, 15, INDIRECT, 0)], "indirect"),
            ([(0, 0, INDIRECT, 0)], "empty"),
            ([(0, 0xFFFF_FFFF, 0, 0)], "bytes at"),
            ([(0, 0xFFFF_FFF0, INDIRECT, 0)], "bytes at"),
            ([((1 << 64) - 1 - RAM_START, 16, 0, 0)], "bytes at"),
            ([((1 << 64) - 1 - RAM_START, 16, NEXT, 1), (0, 16, 0, 0)], "bytes at"),
            ([((1 << 16) - 15, 16, 0, 0)], "bytes at"),
        ],
    )
    def test_are_refused(
        self, pair: Pair, descriptors: list[tuple[int, int, int, int]], reason: str
    ) -> None:
        for index, (offset, length, flags, following) in enumerate(descriptors):
            pair.driver.describe(index, RAM_START + offset, length, flags, following)
        pair.driver.offer(0)

        with pytest.raises((DriverError, GuestAddressError), match=reason):
            pair.queue.peek(False)

    @pytest.mark.parametrize(
        ("table", "reason"),
        [
            ([(0, 16, INDIRECT, 0)], "indirect"),
            ([(0, 16, NEXT, 1)], "descriptor 1 of 1"),
            ([(0, 16, NEXT, 0)], "longer than its queue"),
            ([(0, 16, WRITE, 0)], "direction"),
            ([(0, 0, 0, 0)], "empty"),
            ([(0, 16, NEXT, index + 1) for index in range(9)], "longer than its queue"),
        ],
    )
    def test_are_refused_in_an_indirect_table(
        self, pair: Pair, table: list[tuple[int, int, int, int]], reason: str
    ) -> None:
        at = pair.memory.allocate(16 * len(table))
        for index, (offset, length, flags, following) in enumerate(table):
            pair.memory.write(
                at + 16 * index, "<QIHH", RAM_START + offset, length, flags, following
            )
        pair.driver.describe(0, at, 16 * len(table), INDIRECT)
        pair.driver.offer(0)

        with pytest.raises(DriverError, match=reason):
            pair.queue.peek(False)

    def test_an_indirect_table_that_is_not_the_end(self, pair: Pair) -> None:
        table = pair.memory.allocate(16)
        pair.memory.write(table, "<QIHH", pair.buffer, 3, 0, 0)
        pair.driver.describe(0, table, 16, INDIRECT | NEXT, 1)
        pair.driver.describe(1, pair.buffer, 16, 0)
        pair.driver.offer(0)

        with pytest.raises(DriverError, match="indirect"):
            pair.queue.peek(False)

    def test_an_indirect_table_that_was_not_agreed_on(self) -> None:
        pair = Pair(features=int(RingFeature.EVENT_IDX))
        pair.driver.describe(0, pair.buffer, 16, INDIRECT)
        pair.driver.offer(0)

        with pytest.raises(DriverError, match="indirect"):
            pair.queue.peek(False)

    def test_a_head_that_is_no_descriptor(self, pair: Pair) -> None:
        pair.driver.offer(8)

        with pytest.raises(DriverError, match="descriptor 8 of 8"):
            pair.queue.peek(False)

    @pytest.mark.parametrize("index", [9, 0x8000, 0xFFFF])
    def test_an_index_that_jumps(self, pair: Pair, index: int) -> None:
        pair.memory.write(pair.driver.available + 2, "<H", index)

        with pytest.raises(DriverError, match=f"{index} buffers in a queue of 8"):
            pair.queue.peek(False)
        with pytest.raises(DriverError):
            pair.queue.await_more()


class TestRings:
    @pytest.mark.parametrize("size", [0, 3, 24, 512, 0xFFFF_FFFF])
    def test_of_an_impossible_size(self, pair: Pair, size: int) -> None:
        queue = Virtqueue(pair.memory, 256)
        queue.size = size
        queue.areas = pair.queue.areas

        with pytest.raises(DriverError, match=f"a queue of {size} buffers"):
            queue.enable(BOTH)

        assert not queue.ready

    @pytest.mark.parametrize(("area", "offset"), [(0, 8), (1, 1), (2, 2)])
    def test_misaligned(self, pair: Pair, area: int, offset: int) -> None:
        queue = Virtqueue(pair.memory, 256)
        queue.areas = list(pair.queue.areas)
        queue.areas[area] += offset

        with pytest.raises(DriverError, match="misaligned"):
            queue.enable(BOTH)

    @pytest.mark.parametrize("area", list(Area))
    @pytest.mark.parametrize("address", [0, RAM_START + (1 << 16) - 16, (1 << 64) - 16])
    def test_not_in_memory(self, pair: Pair, area: int, address: int) -> None:
        queue = Virtqueue(pair.memory, 256)
        queue.areas = list(pair.queue.areas)
        queue.areas[area] = address

        with pytest.raises(GuestAddressError):
            queue.enable(BOTH)

        assert not queue.ready

    def test_of_one_buffer(self) -> None:
        pair = Pair(size=1)
        for _ in range(3):
            pair.add()
            pair.use()
            pair.queue.publish()
            assert pair.driver.get() == (0, 0)

    def test_a_disabled_queue_is_empty(self, pair: Pair) -> None:
        pair.add()
        pair.use()
        pair.add()

        pair.queue.disable()

        assert pair.queue.peek(False) is None
        assert not pair.queue.await_more()
        assert not pair.queue.wants_interrupt()
        pair.queue.publish()

    def test_a_reset_lets_go_of_memory(self) -> None:
        memory = GuestMemory([(0, 1 << 20)])
        queue = Virtqueue(memory, 8)
        queue.areas = [0x1000, 0x2000, 0x3000]
        queue.enable(BOTH)

        queue.reset()

        memory.close()


class TestUsed:
    def test_is_told_with_its_length(self, pair: Pair) -> None:
        pair.driver.add([(pair.buffer, 9)], writable=True, token=77)
        pair.use(5, writable=True)
        assert pair.driver.get() is None  # not published yet

        pair.queue.publish()

        assert pair.queue.wants_interrupt()
        assert not pair.queue.wants_interrupt()
        assert pair.driver.get() == (77, 5)

    def test_no_interrupt_for_what_the_driver_has_seen(self, pair: Pair) -> None:
        pair.add()
        pair.use()
        pair.queue.publish()
        pair.driver.get()
        assert not pair.queue.wants_interrupt()

    def test_push_counts_what_the_driver_was_not_told(self, pair: Pair) -> None:
        counts = []
        for _ in range(3):
            pair.add()
            pair.queue.peek(False)
            counts.append(pair.queue.push(0))
        pair.queue.wants_interrupt()
        pair.add()
        pair.queue.peek(False)
        counts.append(pair.queue.push(0))

        assert counts == [1, 2, 3, 1]

    def test_interrupts_unless_the_driver_declines(self) -> None:
        pair = Pair(features=0)
        pair.add()
        pair.use()
        assert pair.queue.wants_interrupt()

        pair.memory.write(pair.driver.available, "<H", 1)
        pair.add()
        pair.use()
        assert not pair.queue.wants_interrupt()

    def test_nothing_used_is_no_interrupt(self, pair: Pair) -> None:
        assert not pair.queue.wants_interrupt()

    def test_flag_counts_for_nothing_beside_events(self, pair: Pair) -> None:
        pair.memory.write(pair.driver.available, "<H", 1)
        pair.add()
        pair.use()

        assert pair.queue.wants_interrupt()

    @pytest.mark.parametrize("start", [0, 0xFFFC, 0xFFFF])
    def test_interrupts_when_the_event_is_passed(self, start: int) -> None:
        pair = Pair()
        pair.driver.jump(start)
        state = pair.queue.save_state()
        state.next_available = state.next_used = state.notified = start
        pair.queue.restore(state, BOTH)
        event = pair.driver.available + 4 + 2 * 8
        pair.memory.write(event, "<H", (start + 2) & 0xFFFF)  # when the third is used

        wanted = []
        for _ in range(5):
            pair.add()
            pair.use()
            wanted.append(pair.queue.wants_interrupt())
        assert wanted == [False, False, True, False, False]

        pair.memory.write(event, "<H", (start + 6) & 0xFFFF)
        for _ in range(3):
            pair.add()
            pair.use()
        assert pair.queue.wants_interrupt()  # three at once, the middle one is the one


class TestNotifications:
    @pytest.mark.parametrize("start", [0, 0xFFFE])
    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_come_when_there_are_as_many_as_asked_for(self, start: int, count: int) -> None:
        pair = Pair()
        pair.driver.jump(start)
        state = pair.queue.save_state()
        state.next_available = state.next_used = state.notified = start
        pair.queue.restore(state, BOTH)

        assert not pair.queue.await_more(count)
        for _ in range(count):
            assert pair.bell.rung == 0
            pair.add()
            pair.driver.kick()
        assert pair.bell.rung == 1

    def test_are_not_asked_for_what_is_there(self, pair: Pair) -> None:
        pair.add()
        assert not pair.queue.await_more(2)
        pair.add()

        assert pair.queue.await_more(2)

    def test_are_not_sent_unasked(self, pair: Pair) -> None:
        pair.queue.await_more()
        for _ in range(3):
            pair.add()
            pair.driver.kick()

        assert pair.bell.rung == 1

    def test_are_all_sent_without_events(self) -> None:
        pair = Pair(features=0)
        for _ in range(3):
            pair.add()
            pair.driver.kick()

        assert pair.bell.rung == 3

    def test_depth_is_the_most_there_ever_was(self, pair: Pair) -> None:
        for _ in range(3):
            pair.add()
        pair.use()
        pair.add()
        pair.use()

        assert pair.queue.depth == 3


@pytest.mark.parametrize("features", [0, BOTH])
@pytest.mark.parametrize("size", [1, 8])
def test_indices_wrap_where_16_bits_end(size: int, features: int) -> None:
    pair = Pair(size, features)
    for number in range(66_000):
        pair.driver.add([(pair.buffer, 8)], writable=True, token=number)
        chain = pair.queue.peek(True)
        assert chain is not None
        pair.queue.push(number & 7)
        assert pair.queue.wants_interrupt()
        assert pair.driver.get() == (number, number & 7)
        assert not pair.queue.await_more()


def test_a_queue_goes_on_from_its_state(pair: Pair) -> None:
    for length in (1, 2, 3, 4):
        pair.driver.add([(pair.buffer, length)], writable=False, token=length)
    pair.use()
    pair.queue.wants_interrupt()
    pair.use()  # used, and not yet published

    other = Virtqueue(pair.memory, 256)
    other.restore(pair.queue.save_state(), BOTH)

    assert sizes(other.peek(False)) == [3]
    other.push(0)
    other.publish()
    assert [pair.driver.get() for _ in range(4)] == [(1, 0), (2, 0), (3, 0), None]


def test_a_queue_that_is_not_ready_goes_on_from_its_state(pair: Pair) -> None:
    queue = Virtqueue(pair.memory, 256)
    queue.size = 4
    queue.areas = [1, 2, 3]

    other = Virtqueue(pair.memory, 256)
    other.restore(queue.save_state(), BOTH)

    assert other.save_state() == queue.save_state()
    assert not other.ready
