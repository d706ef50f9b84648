"""The keyboard controller, as Linux probes for it and resets the machine by it."""

from __future__ import annotations

import pytest

from slipway.vmm.devices.i8042 import I8042, Command, Control, I8042State, Register, Status

POLLS = 10_000  # I8042_CTL_TIMEOUT


class Timeout(Exception):
    """An answer did not come."""


class Driver:
    """The accesses of drivers/input/serio/i8042.c, counted."""

    def __init__(self) -> None:
        self.resets = 0
        self.accesses = 0
        self.device = I8042(self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def status(self) -> int:
        self.accesses += 1
        return self.device.read(Register.STATUS, 1)

    def data(self) -> int:
        self.accesses += 1
        return self.device.read(Register.DATA, 1)

    def write(self, register: int, value: int) -> None:
        self.accesses += 1
        self.device.write(register, 1, value)

    def flush(self) -> int:
        count = 0
        while self.status() & Status.OUTPUT_FULL and count < 16:
            self.data()
            count += 1
        return count

    def command(self, command: int, *parameters: int, answers: int = 0) -> list[int]:
        assert not self.status() & Status.INPUT_FULL
        self.write(Register.STATUS, command)
        for parameter in parameters:
            assert not self.status() & Status.INPUT_FULL
            self.write(Register.DATA, parameter)
        taken = []
        for _ in range(answers):
            if not self.status() & Status.OUTPUT_FULL:
                raise Timeout
            if command == Command.LOOP_AUX and not self.status() & Status.AUX:
                raise Timeout
            taken.append(self.data())
        return taken


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_linux_probe_ends_after_few_accesses_and_without_a_mouse(driver: Driver) -> None:
    """i8042_platform_init(), _controller_check(), _controller_init() and _check_aux()."""
    driver.command(Command.WRITE_OUTPUT_PORT, 0xDF)
    driver.command(0xFF)
    assert driver.flush() == 0
    (control,) = driver.command(Command.READ_CONTROL, answers=1)
    assert driver.command(Command.READ_CONTROL, answers=1) == [control]
    assert driver.status() & Status.UNLOCKED
    driver.command(Command.WRITE_CONTROL, (control | Control.KBD_OFF) & ~Control.KBD_INT)
    driver.flush()

    driver.flush()
    with pytest.raises(Timeout):
        driver.command(Command.LOOP_AUX, 0x5A, answers=1)
    (result,) = driver.command(Command.AUX_TEST, answers=1)
    assert result not in {0x00, 0xFA, 0xFF}

    assert driver.accesses < 50
    assert driver.resets == 0


def test_self_test_passes(driver: Driver) -> None:
    assert driver.command(Command.SELF_TEST, answers=1) == [0x55]


def test_reboot_by_the_keyboard_controller(driver: Driver) -> None:
    """native_machine_emergency_restart(): kb_wait(), then the pulse."""
    assert not driver.status() & Status.INPUT_FULL
    driver.write(Register.STATUS, Command.RESET)

    assert driver.resets == 1


@pytest.mark.parametrize("command", range(0xF0, 0x100))
def test_the_reset_line_is_pulsed_by_each_command_that_has_its_bit_clear(
    driver: Driver, command: int
) -> None:
    driver.command(command)

    assert driver.resets == (command + 1) % 2


def test_the_output_port_pulls_the_reset_line(driver: Driver) -> None:
    driver.command(Command.WRITE_OUTPUT_PORT, 0xCF)
    assert driver.resets == 0
    driver.command(Command.WRITE_OUTPUT_PORT, 0xCE)
    assert driver.resets == 1


def test_the_control_byte_is_kept(driver: Driver) -> None:
    driver.command(Command.WRITE_CONTROL, 0x47)

    assert driver.command(Command.READ_CONTROL, answers=1) == [0x47]


@pytest.mark.parametrize(
    ("off", "on", "bit"),
    [
        (Command.AUX_DISABLE, Command.AUX_ENABLE, Control.AUX_OFF),
        (Command.KBD_DISABLE, Command.KBD_ENABLE, Control.KBD_OFF),
    ],
)
def test_ports_are_switched_in_the_control_byte(
    driver: Driver, off: Command, on: Command, bit: Control
) -> None:
    driver.command(on)
    assert not driver.command(Command.READ_CONTROL, answers=1)[0] & bit
    driver.command(off)
    assert driver.command(Command.READ_CONTROL, answers=1)[0] & bit


@pytest.mark.parametrize(
    "command",
    [
        Command.AUX_TEST,
        Command.KBD_TEST,
        Command.READ_INPUT_PORT,
        Command.READ_OUTPUT_PORT,
        *range(0x20, 0x40),
    ],
)
def test_what_has_an_answer_answers_at_once(driver: Driver, command: int) -> None:
    assert len(driver.command(command, answers=1)) == 1
    assert not driver.status() & Status.OUTPUT_FULL


@pytest.mark.parametrize("command", range(0x61, 0x80))
def test_other_memory_of_the_controller_takes_its_parameter(driver: Driver, command: int) -> None:
    control = driver.command(Command.READ_CONTROL, answers=1)
    driver.command(command, 0xFF)

    assert not driver.status() & Status.OUTPUT_FULL
    assert driver.command(Command.READ_CONTROL, answers=1) == control


def test_the_keyboards_loop_gives_the_byte_back(driver: Driver) -> None:
    assert driver.command(Command.LOOP_KBD, 0x5A, answers=1) == [0x5A]


def test_no_device_takes_a_byte(driver: Driver) -> None:
    driver.write(Register.DATA, 0xF2)
    assert driver.status() & (Status.OUTPUT_FULL | Status.TIMEOUT | Status.AUX) == (
        Status.OUTPUT_FULL | Status.TIMEOUT
    )
    assert driver.data() == 0xFE

    driver.command(Command.SEND_AUX, 0xF2)
    assert driver.status() & Status.AUX
    assert driver.data() == 0xFE
    assert not driver.status() & (Status.OUTPUT_FULL | Status.TIMEOUT | Status.AUX)


def test_the_status_tells_a_command_from_data(driver: Driver) -> None:
    driver.write(Register.STATUS, Command.WRITE_CONTROL)
    assert driver.status() & Status.COMMAND
    driver.write(Register.DATA, 0)
    assert not driver.status() & Status.COMMAND


def test_a_command_gives_up_the_one_before(driver: Driver) -> None:
    (before,) = driver.command(Command.READ_CONTROL, answers=1)
    driver.command(Command.WRITE_CONTROL)
    driver.command(Command.KBD_DISABLE)
    driver.write(Register.DATA, 0)

    driver.flush()
    assert driver.command(Command.READ_CONTROL, answers=1) == [before | Control.KBD_OFF]


def test_other_ports_are_not_there(driver: Driver) -> None:
    for offset in (1, 2, 3, 5):
        driver.device.write(offset, 1, Command.RESET)
        assert driver.device.read(offset, 1) == 0xFF

    assert driver.resets == 0


def test_state_is_a_copy(driver: Driver) -> None:
    driver.command(Command.WRITE_CONTROL)
    state = driver.device.save_state()
    other = Driver()
    other.device.restore(state)
    driver.write(Register.DATA, 1)
    other.write(Register.DATA, 2)

    assert driver.command(Command.READ_CONTROL, answers=1) == [1]
    assert other.command(Command.READ_CONTROL, answers=1) == [2]
    assert state != I8042State()
    assert state.command == Command.WRITE_CONTROL
