"""Keyboard controller of a PC, without keyboard or mouse; a guest resets the machine by it.

After the Intel 8042 as the PC has it (IBM PS/2 technical reference), and the probes of Linux
(drivers/input/serio/i8042.c). That driver polls the status 10,000 times for each missing answer;
therefore each command with an answer gets one at once, which says that no device is plugged in.
The controller never raises an interrupt.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from slipway.vmm.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Offsets from port 0x60. COMMAND when written is STATUS when read.
Register = IntEnum("Register", {"DATA": 0, "STATUS": 4})
# UNLOCKED is the key of the PC's case, without which Linux warns.
Status = IntFlag("Status", "OUTPUT_FULL INPUT_FULL SYSTEM COMMAND UNLOCKED AUX TIMEOUT PARITY")
Control = IntFlag("Control", "KBD_INT AUX_INT SYSTEM IGNORE_LOCK KBD_OFF AUX_OFF TRANSLATE")


class Command(IntEnum):
    """Commands. 0x20 and 0x60 are the first of 32 that read and write the controller's memory."""

    READ_CONTROL = 0x20
    WRITE_CONTROL = 0x60
    AUX_DISABLE = 0xA7
    AUX_ENABLE = 0xA8
    AUX_TEST = 0xA9
    SELF_TEST = 0xAA
    KBD_TEST = 0xAB
    KBD_DISABLE = 0xAD
    KBD_ENABLE = 0xAE
    READ_INPUT_PORT = 0xC0
    READ_OUTPUT_PORT = 0xD0
    WRITE_OUTPUT_PORT = 0xD1
    LOOP_KBD = 0xD2
    LOOP_AUX = 0xD3
    SEND_AUX = 0xD4
    PULSE = 0xF0
    RESET = 0xFE


SELF_TEST_PASSED = 0x55
LINE_STUCK = 0x01  # the answer of a test: the clock line stays low
RESEND = 0xFE  # with Status.TIMEOUT: the device has not accepted the byte
_UNLOCKED = 0x80
_A20 = 0x02
_NO_RESET = 0x01  # of the output port, and of PULSE's mask

_DATA, _STATUS = map(int, Register)
_IDLE = int(Status.SYSTEM | Status.UNLOCKED)
_FULL, _COMMAND = int(Status.OUTPUT_FULL), int(Status.COMMAND)
_ANSWER = int(Status.OUTPUT_FULL | Status.AUX | Status.TIMEOUT)


@record
class I8042State:
    """Complete state of the controller; the defaults are those of a PC's firmware."""

    status: int = _IDLE
    control: int = int(Control.SYSTEM | Control.KBD_OFF | Control.AUX_OFF | Control.TRANSLATE)
    output: int = 0
    command: int = 0  # the command that waits for its parameter; 0 if none does


class I8042:
    """Keyboard controller; calls ``reset`` when the guest pulls the processor's reset line."""

    __slots__ = ("_reset", "_state")

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self._state = I8042State()

    def save_state(self) -> I8042State:
        """Return a copy of the state."""
        return replace(self._state)

    def restore(self, state: I8042State) -> None:
        """Restore a copy of ``state``."""
        self._state = replace(state)

    def read(self, offset: int, size: int) -> int:
        """Return the status, or the answer, which stays readable."""
        state = self._state
        if offset == _STATUS:
            return state.status
        if offset == _DATA:
            state.status &= ~_ANSWER
            return state.output
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a command, or the parameter of the last command."""
        state = self._state
        value &= 0xFF
        if offset == _STATUS:
            state.status |= _COMMAND
            state.command = 0
            self._execute(value)
        elif offset == _DATA:
            state.status &= ~_COMMAND
            command, state.command = state.command, 0
            self._take(command, value)

    def _answer(self, value: int, flags: int = 0) -> None:
        # An unread answer is replaced: Linux gives up on LOOP_AUX without reading.
        state = self._state
        state.status = state.status & ~_ANSWER | _FULL | flags
        state.output = value

    def _execute(self, command: int) -> None:
        state = self._state
        match command:
            case Command.READ_CONTROL:
                self._answer(state.control)
            case Command.WRITE_OUTPUT_PORT | Command.LOOP_KBD | Command.LOOP_AUX | Command.SEND_AUX:
                state.command = command
            case Command.AUX_DISABLE:
                state.control |= int(Control.AUX_OFF)
            case Command.AUX_ENABLE:
                state.control &= ~int(Control.AUX_OFF)
            case Command.AUX_TEST:
                # A controller without this port would not answer, and Linux would poll for long.
                self._answer(LINE_STUCK)
            case Command.SELF_TEST:
                self._answer(SELF_TEST_PASSED)
            case Command.KBD_TEST:
                self._answer(LINE_STUCK)
            case Command.KBD_DISABLE:
                state.control |= int(Control.KBD_OFF)
            case Command.KBD_ENABLE:
                state.control &= ~int(Control.KBD_OFF)
            case Command.READ_INPUT_PORT:
                self._answer(_UNLOCKED)
            case Command.READ_OUTPUT_PORT:
                self._answer(_A20 | _NO_RESET)
            case _ if command >= Command.PULSE:
                # Lines whose bits are 0 go low for 6 us; RESET pulses only the reset line.
                if not command & _NO_RESET:
                    self._reset()
            case _ if command & 0xE0 == Command.READ_CONTROL:
                self._answer(0)
            case _ if command & 0xE0 == Command.WRITE_CONTROL:
                state.command = command

    def _take(self, command: int, value: int) -> None:
        match command:
            case Command.WRITE_CONTROL:
                self._state.control = value
            case Command.WRITE_OUTPUT_PORT:
                if not value & _NO_RESET:
                    self._reset()
            case Command.LOOP_KBD | Command.LOOP_AUX:
                # Without Status.AUX, like a controller without this port: Linux stops probing then.
                # Otherwise it would wait for an interrupt.
                self._answer(value)
            case Command.SEND_AUX:
                self._answer(RESEND, int(Status.TIMEOUT | Status.AUX))
            case 0:
                self._answer(RESEND, int(Status.TIMEOUT))
