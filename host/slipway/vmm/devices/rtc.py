"""Real-time clock and CMOS memory of a PC: an MC146818, with the century at 0x32.

After the data sheet MC146818 (Motorola, 1984) and drivers/rtc/rtc-mc146818-lib.c of Linux. The
clock raises no interrupt: alarms are kept and never go off, and register C is always empty.

Its time is the host's, in UTC. A time that a guest writes is ignored: such a guest goes by its own
clock from then on, and after a restored snapshot only the host knows the time.
"""

from __future__ import annotations

import time
from enum import IntEnum, IntFlag

from slipway.vmm.record import field, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Offsets from port 0x70.
Register = IntEnum("Register", "INDEX DATA", start=0)


class Cell(IntEnum):
    """Cells with a meaning. All others of the 128 are memory, like the alarm's (1, 3, 5)."""

    SECONDS = 0x00
    MINUTES = 0x02
    HOURS = 0x04
    WEEKDAY = 0x06
    DAY = 0x07
    MONTH = 0x08
    YEAR = 0x09
    A = 0x0A
    B = 0x0B
    C = 0x0C
    D = 0x0D
    CENTURY = 0x32


B = IntFlag("B", {"HOURS_24": 0x02, "BINARY": 0x04})
UPDATE_IN_PROGRESS = 0x80  # of register A; never set, since Linux waits while it is set
VALID = 0x80  # of register D: the battery has not failed
PM = 0x80  # of the hours, in the 12-hour format
_DIVIDER = 0x26  # register A of a PC's firmware: 32,768 Hz in, 1,024 Hz out

_DATA = int(Register.DATA)
_TIME = frozenset(map(int, Cell)) - {Cell.A, Cell.B, Cell.C, Cell.D}
_READ_ONLY = _TIME | {Cell.C, Cell.D}


def _build_cells() -> bytearray:
    cells = bytearray(128)
    cells[Cell.A] = _DIVIDER
    cells[Cell.B] = B.HOURS_24
    cells[Cell.D] = VALID
    return cells


@record
class RtcState:
    """Complete state without the time; the defaults are those of a PC's firmware."""

    index: int = 0
    cells: bytearray = field(default_factory=_build_cells)


class Rtc:
    """Clock and memory. ``clock`` returns seconds since 1970, like ``time.time``."""

    __slots__ = ("_clock", "_state")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._state = RtcState()

    def save_state(self) -> RtcState:
        """Return a copy of the state."""
        return replace(self._state, cells=self._state.cells.copy())

    def restore(self, state: RtcState) -> None:
        """Restore a copy of ``state``."""
        self._state = replace(state, cells=state.cells.copy())

    def read(self, offset: int, size: int) -> int:
        """Return the selected cell; its index cannot be read."""
        if offset != _DATA:
            return 0xFF
        state = self._state
        index = state.index
        return self._read_time(index) if index in _TIME else state.cells[index]

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a cell, or write to the selected cell."""
        state = self._state
        if offset != _DATA:
            state.index = value & 0x7F  # the bit above is the PC's mask of NMIs
        elif state.index == Cell.A:
            state.cells[Cell.A] = value & 0xFF & ~UPDATE_IN_PROGRESS
        elif state.index not in _READ_ONLY:
            state.cells[state.index] = value & 0xFF

    def _read_time(self, index: int) -> int:
        now = time.gmtime(self._clock())
        mode = self._state.cells[Cell.B]
        match index:
            case Cell.HOURS if not mode & B.HOURS_24:
                afternoon = PM if now.tm_hour >= 12 else 0
                return afternoon | _encode_number(now.tm_hour % 12 or 12, mode)
            case Cell.SECONDS:
                value = now.tm_sec
            case Cell.MINUTES:
                value = now.tm_min
            case Cell.HOURS:
                value = now.tm_hour
            case Cell.WEEKDAY:
                value = (now.tm_wday + 1) % 7 + 1  # from Sunday, which is 1
            case Cell.DAY:
                value = now.tm_mday
            case Cell.MONTH:
                value = now.tm_mon
            case Cell.YEAR:
                value = now.tm_year % 100
            case _:
                value = now.tm_year // 100
        return _encode_number(value, mode)


def _encode_number(value: int, mode: int) -> int:
    return value if mode & B.BINARY else value // 10 << 4 | value % 10
