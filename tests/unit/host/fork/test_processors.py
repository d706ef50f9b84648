"""Registers of stopped threads: how a call is made, made again and read, for each architecture."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from slipway.machine.fork import aarch64, x86_64
from slipway.machine.fork.call_names import Call

if TYPE_CHECKING:
    from slipway.machine.fork.processor import Processor

PROCESSORS: dict[str, Processor] = {"x86_64": x86_64, "aarch64": aarch64}
# struct user_regs_struct and struct user_pt_regs, in units of 8 bytes.
WORDS = {"x86_64": 27, "aarch64": 34}
FUTEX = {"x86_64": 202, "aarch64": 98}
CODE = 0x7F00_0000_1000


def stop_in_call(machine: str, number: int) -> bytes:
    """Return registers of a thread that a stop has taken out of a call, as the kernel shows them.

    x86-64: the program counter is behind the instruction, the result asks for a restart.
    aarch64: do_signal() has set the program counter back to the instruction.
    """
    words = list(range(1000, 1000 + WORDS[machine]))
    if machine == "x86_64":
        words[10], words[15], words[16] = 2**64 - 512, number, CODE + 2
    else:
        words[8], words[32] = number, CODE
    return struct.pack(f"={len(words)}Q", *words)


@pytest.mark.parametrize("machine", PROCESSORS)
def test_interrupted_call_and_its_instruction_are_found(machine: str) -> None:
    processor = PROCESSORS[machine]
    registers = stop_in_call(machine, FUTEX[machine])

    assert processor.find_interrupted_call(registers) == FUTEX[machine]
    assert processor.find_interrupted_call(registers) in processor.WAITING
    assert processor.get_call_address(registers) == CODE


@pytest.mark.parametrize("machine", PROCESSORS)
def test_call_that_fails_because_of_the_stop_fails_in_a_fork_too(machine: str) -> None:
    processor = PROCESSORS[machine]
    words = list(struct.unpack(f"={WORDS[machine]}Q", stop_in_call(machine, FUTEX[machine])))
    number, counter = (10, 16) if machine == "x86_64" else (0, 32)
    words[number], words[counter] = 2**64 - 4, CODE + len(processor.CALL_INSTRUCTION)
    registers = struct.pack(f"={len(words)}Q", *words)

    after = struct.unpack(f"={len(words)}Q", processor.prepare_restart(registers))

    assert processor.find_interrupted_call(registers) == FUTEX[machine]
    assert processor.get_call_address(registers) == CODE
    assert (after[number], after[counter]) == (words[number], words[counter])


def test_thread_outside_of_a_call_has_none() -> None:
    words = [0] * 27
    words[15] = 2**64 - 1

    assert x86_64.find_interrupted_call(struct.pack("=27Q", *words)) is None


@pytest.mark.parametrize("machine", PROCESSORS)
def test_interrupted_call_is_made_again_with_its_arguments(machine: str) -> None:
    processor = PROCESSORS[machine]
    registers = stop_in_call(machine, FUTEX[machine])
    before = struct.unpack(f"={WORDS[machine]}Q", registers)

    after = struct.unpack(f"={WORDS[machine]}Q", processor.prepare_restart(registers))

    number, counter = (10, 16) if machine == "x86_64" else (8, 32)
    assert (after[number], after[counter]) == (FUTEX[machine], CODE)
    changed = {
        index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new
    }
    assert changed <= {10, 15, 16} if machine == "x86_64" else not changed


def test_x86_64_makes_a_call_with_arguments_in_their_registers() -> None:
    made = x86_64.prepare_call(stop_in_call("x86_64", 0), CODE, 157, (1, 2, 3, 4, 5, -1))

    words = struct.unpack("=27Q", made)
    # rdi, rsi, rdx, r10, r8, r9; rax and rip
    assert [words[index] for index in (14, 13, 12, 7, 9, 8)] == [1, 2, 3, 4, 5, 2**64 - 1]
    assert (words[10], words[16]) == (157, CODE)
    assert words[15] == 2**64 - 1  # no call is restarted


def test_aarch64_makes_a_call_with_arguments_in_their_registers() -> None:
    made = aarch64.prepare_call(stop_in_call("aarch64", 0), CODE, 167, (1, 2, 3, 4, 5, -1))

    words = struct.unpack("=34Q", made)
    assert words[:6] == (1, 2, 3, 4, 5, 2**64 - 1)
    assert (words[8], words[32]) == (167, CODE)


@pytest.mark.parametrize("machine", PROCESSORS)
def test_result_may_be_an_error(machine: str) -> None:
    words = [0] * WORDS[machine]
    words[10 if machine == "x86_64" else 0] = 2**64 - 22

    result = PROCESSORS[machine].read_result(struct.pack(f"={len(words)}Q", *words))

    assert result == -22


@pytest.mark.parametrize("machine", PROCESSORS)
def test_every_call_has_a_number_of_its_own(machine: str) -> None:
    numbers = PROCESSORS[machine].NUMBERS

    assert set(numbers) == set(Call)
    assert len(set(numbers.values())) == len(Call)
