"""What the guest's CPUID instruction says, on each of its vCPUs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from support.bare_metal import Recorder
from support.machine_code import DATA, OTHERS_CODE, Code

if TYPE_CHECKING:
    from kvm.conftest import Bare

    Registers = tuple[int, int, int, int]

CPUS = 4
HYPERVISOR, TSC_DEADLINE = 1 << 31, 1 << 24
HYPERTHREADING, LONG_MODE = 1 << 28, 1 << 29
RESULT, NEXT = 0x4000, 0xF6


def on_first(bare: Bare, leaf: int, index: int = 0, cpus: int = 1) -> Registers:
    """CPUID's eax, ebx, ecx and edx on the first vCPU."""
    # mov [rdi], eax; mov [rdi+4], ebx; mov [rdi+8], ecx; mov [rdi+12], edx
    store = bytes.fromhex("8907 895f04 894f08 89570c")
    code = Code().set("rax", leaf).set("rcx", index).raw(b"\x0f\xa2").set("rdi", DATA)
    machine = bare(code.raw(store).end_test(), cpus=cpus)
    machine.run()
    a, b, c, d = struct.unpack("<4I", machine.memory.read(DATA, 16))
    return a, b, c, d


def on_each(bare: Bare, leaf: int, index: int) -> list[Registers]:
    """The same on each of four vCPUs, the others started one after the other."""
    code = Code()
    for number in range(1, CPUS):
        code.wake(number).wait_for(number)
    machine = bare(code.end_test(), cpus=CPUS)
    # 16-bit mode: mov eax, leaf; mov ecx, index; cpuid; mov [..], eax, ebx, ecx, edx; out; hlt
    other = b"\x66\xb8" + struct.pack("<I", leaf) + b"\x66\xb9" + struct.pack("<I", index)
    other += b"\x0f\xa2" + b"\x66\xa3" + struct.pack("<H", RESULT)
    for at, register in enumerate((0x1E, 0x0E, 0x16), 1):
        other += bytes((0x66, 0x89, register)) + struct.pack("<H", RESULT + 4 * at)
    machine.memory.write(OTHERS_CODE, other + bytes((0xE6, NEXT, 0xFA, 0xF4)))
    results: list[Registers] = []

    class Next(Recorder):
        def write(self, offset: int, size: int, value: int) -> None:
            a, b, c, d = struct.unpack("<4I", machine.memory.read(RESULT, 16))
            results.append((a, b, c, d))
            machine.memory.write(DATA, bytes((len(results),)))

    machine.bus.add_port(NEXT, 1, Next())
    machine.run()
    return [on_first(bare, leaf, index, CPUS), *results]


def test_guest_knows_that_it_is_one_and_of_kvm(bare: Bare) -> None:
    assert on_first(bare, 1)[2] & HYPERVISOR
    assert struct.pack("<3I", *on_first(bare, 0x4000_0000)[1:]) == b"KVMKVMKVM\0\0\0"


def test_guest_has_the_timer_that_needs_no_calibration(bare: Bare) -> None:
    assert on_first(bare, 1)[2] & TSC_DEADLINE


def test_guest_has_long_mode(bare: Bare) -> None:
    assert on_first(bare, 0x8000_0001)[3] & LONG_MODE


def test_guest_has_no_counters_of_the_hosts_performance(bare: Bare) -> None:
    assert on_first(bare, 0xA)[:2] == (0, 0)


def test_single_processor_is_alone(bare: Bare) -> None:
    # A KVM that interprets shows feature bits of the host's own, so that those tell nothing.
    ebx = on_first(bare, 1)[1]

    assert (ebx >> 24, ebx >> 16 & 0xFF) == (0, 1)


def test_each_processor_has_its_apic_id_and_knows_their_number(bare: Bare) -> None:
    leaves = on_each(bare, 1, 0)

    assert [(ebx >> 24, ebx >> 16 & 0xFF) for _, ebx, _, _ in leaves] == [
        (number, CPUS) for number in range(CPUS)
    ]
    assert all(edx & HYPERTHREADING for *_, edx in leaves)


@pytest.mark.parametrize("leaf", [0xB, 0x1F])
def test_processors_are_cores_of_one_package(bare: Bare, leaf: int) -> None:
    threads, cores = on_each(bare, leaf, 0), on_each(bare, leaf, 1)

    if threads[0] == (0, 0, 0, 0):
        pytest.skip(f"this processor's highest leaf is below {leaf:#x}")
    # Width of the level's part of the APIC id, processors in it, its kind and place, the whole id.
    assert threads == [(0, 1, 1 << 8, number) for number in range(CPUS)]
    assert cores == [(2, CPUS, 2 << 8 | 1, number) for number in range(CPUS)]


def test_host_without_an_extended_topology_says_it_in_the_amd_way(bare: Bare) -> None:
    if on_first(bare, 0x8000_0000)[0] < 0x8000_0008:
        pytest.skip("this processor has no such leaf")
    ecx = on_first(bare, 0x8000_0008, cpus=CPUS)[2]

    assert (ecx >> 12 & 0xF, ecx & 0xFF) == (2, CPUS - 1)
