"""The clock of a PC, read as Linux does."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

import pytest

from slipway.vmm.devices.rtc import B, Cell, Register, Rtc

MOMENT = datetime(2026, 2, 28, 23, 59, 58, tzinfo=UTC)  # a Saturday


class Cmos:
    """CMOS_READ and CMOS_WRITE over a clock that stands."""

    def __init__(self, moment: datetime = MOMENT) -> None:
        self.now = moment.timestamp()
        self.rtc = Rtc(lambda: self.now)

    def read(self, index: int) -> int:
        self.rtc.write(Register.INDEX, 1, index)
        return self.rtc.read(Register.DATA, 1)

    def write(self, index: int, value: int) -> None:
        self.rtc.write(Register.INDEX, 1, index)
        self.rtc.write(Register.DATA, 1, value)

    def time(self) -> tuple[int, ...]:
        order = (Cell.YEAR, Cell.MONTH, Cell.DAY, Cell.HOURS, Cell.MINUTES, Cell.SECONDS)
        return tuple(self.read(cell) for cell in order)


@pytest.fixture
def cmos() -> Cmos:
    return Cmos()


def from_bcd(value: int) -> int:
    return (value >> 4) * 10 + (value & 0x0F)


def test_linux_reads_the_time(cmos: Cmos) -> None:
    """mc146818_get_time()."""
    seconds = cmos.read(Cell.SECONDS)
    assert not cmos.read(Cell.A) & 0x80
    year, month, day, hours, minutes, again = cmos.time()
    assert again == seconds
    century = cmos.read(Cell.CENTURY)
    assert not cmos.read(Cell.B) & B.BINARY

    fields = tuple(map(from_bcd, (year, month, day, hours, minutes, seconds)))
    full = (from_bcd(century) * 100 + fields[0], *fields[1:])
    assert calendar.timegm(full) == MOMENT.timestamp()


def test_the_time_goes_on_with_the_clock(cmos: Cmos) -> None:
    cmos.now += 2.9

    assert cmos.time() == (0x26, 0x03, 0x01, 0x00, 0x00, 0x00)


def test_binary_is_what_register_b_asks_for(cmos: Cmos) -> None:
    cmos.write(Cell.B, B.BINARY | B.HOURS_24)

    assert cmos.time() == (26, 2, 28, 23, 59, 58)
    assert cmos.read(Cell.CENTURY) == 20


@pytest.mark.parametrize(
    ("hour", "bcd", "binary"),
    [
        (0, 0x12, 12),
        (1, 0x01, 1),
        (11, 0x11, 11),
        (12, 0x92, 0x8C),
        (13, 0x81, 0x81),
        (23, 0x91, 0x8B),
    ],
)
def test_twelve_hours_have_a_bit_for_the_afternoon(hour: int, bcd: int, binary: int) -> None:
    cmos = Cmos(MOMENT.replace(hour=hour))
    cmos.write(Cell.B, 0)
    assert cmos.read(Cell.HOURS) == bcd
    cmos.write(Cell.B, B.BINARY)
    assert cmos.read(Cell.HOURS) == binary


def test_the_week_begins_on_sunday(cmos: Cmos) -> None:
    days = []
    for _ in range(7):
        days.append(cmos.read(Cell.WEEKDAY))
        cmos.now += 86400

    assert days == [7, 1, 2, 3, 4, 5, 6]


def test_the_time_cannot_be_set(cmos: Cmos) -> None:
    """mc146818_set_time()."""
    before = cmos.time()
    mode, divider = cmos.read(Cell.B), cmos.read(Cell.A)
    cmos.write(Cell.B, mode | 0x80)
    cmos.write(Cell.A, divider | 0x70)
    for cell in (Cell.YEAR, Cell.MONTH, Cell.DAY, Cell.HOURS, Cell.MINUTES, Cell.SECONDS):
        cmos.write(cell, 0x01)
    cmos.write(Cell.CENTURY, 0x19)
    cmos.write(Cell.B, mode)
    cmos.write(Cell.A, divider)

    assert cmos.time() == before
    assert cmos.read(Cell.CENTURY) == 0x20


def test_no_update_is_ever_in_progress(cmos: Cmos) -> None:
    cmos.write(Cell.A, 0xFF)

    assert cmos.read(Cell.A) == 0x7F


def test_memory_and_battery_are_valid_and_no_interrupt_has_come(cmos: Cmos) -> None:
    for cell in (Cell.C, Cell.D):
        cmos.write(cell, 0x55)

    assert (cmos.read(Cell.C), cmos.read(Cell.D)) == (0, 0x80)


def test_alarms_are_kept_and_silent(cmos: Cmos) -> None:
    for cell in (1, 3, 5):
        cmos.write(cell, 0xC0)
    cmos.write(Cell.B, B.HOURS_24 | 0x20)
    cmos.now += 60

    assert [cmos.read(cell) for cell in (1, 3, 5)] == [0xC0] * 3
    assert cmos.read(Cell.C) == 0


def test_the_rest_is_memory(cmos: Cmos) -> None:
    cells = [*range(0x0E, 0x32), *range(0x33, 0x80)]
    for cell in cells:
        cmos.write(cell, cell ^ 0xFF)

    assert [cmos.read(cell) for cell in cells] == [cell ^ 0xFF for cell in cells]


def test_the_index_has_a_bit_that_is_not_its_own(cmos: Cmos) -> None:
    cmos.write(0x80 | 0x40, 0x12)

    assert cmos.read(0x40) == 0x12
    assert cmos.rtc.read(Register.INDEX, 1) == 0xFF


def test_state_is_a_copy(cmos: Cmos) -> None:
    cmos.write(0x40, 1)
    state = cmos.rtc.save_state()
    other = Cmos()
    other.rtc.restore(state)
    cmos.write(0x40, 2)
    other.rtc.write(Register.DATA, 1, 3)

    assert (cmos.read(0x40), other.read(0x40)) == (2, 3)
    assert state.cells[0x40] == 1
