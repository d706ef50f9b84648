"""State of a VM on aarch64 as bytes: what a snapshot claims is checked before KVM sees it."""

from __future__ import annotations

import struct

import pytest

from slipway import HostError
from slipway.vmm.arch.aarch64 import layout, processor
from slipway.vmm.arch.aarch64.host_facts import is_feature
from slipway.vmm.kvm import aarch64, aarch64_state
from slipway.vmm.kvm.aarch64 import SYSTEM_REGISTERS, name_system_register
from slipway.vmm.kvm.vm import Vm

# Of the list that KVM returned on a Neoverse N1 (Linux 6.1).
X0, PC, V0, MIDR, MPIDR, PFR0, TIMER, FPSR = (
    *(0x6030_0000_0010_0000, 0x6030_0000_0010_0040, 0x6040_0000_0010_0054),
    *(0x6030_0000_0013_C000, 0x6030_0000_0013_C005, 0x6030_0000_0013_C020),
    *(0x6030_0000_0013_DF1A, 0x6020_0000_0010_00D4),
)


def test_registers_have_the_identifiers_of_the_kernels_documentation() -> None:
    assert (aarch64.X0, aarch64.PC) == (X0, PC)
    assert aarch64.GENERAL_REGISTERS["x30"] == 0x6030_0000_0010_003C
    assert SYSTEM_REGISTERS["sctlr"] == 0x6030_0000_0013_C080


def test_identifiers_tell_the_sizes() -> None:
    assert aarch64.find_register_sizes([X0, V0, FPSR, MIDR]) == [8, 16, 4, 8]


@pytest.mark.parametrize(
    ("register", "expected"),
    [(PFR0, True), (MIDR, False), (MPIDR, False), (TIMER, False), (X0, False), (V0, False)],
)
def test_features_are_told_from_numbers_of_a_processor(register: int, expected: bool) -> None:
    assert is_feature(register) is expected


@pytest.mark.parametrize("lines", [32, 64, 96])
def test_distributor_has_each_register_of_its_lines_once(lines: int) -> None:
    registers = aarch64_state.list_distributor_registers(lines)

    # Bits: group, enabled, pending, active; configuration; priority; route.
    expected = 2 + 4 * lines // 32 + 2 * lines // 32 + lines // 4 + lines
    assert len(set(registers)) == len(registers) == expected
    assert registers[0] == 0x8
    assert all(offset % 4 == 0 for offset in registers)


@pytest.mark.parametrize(("bits", "count"), [(4, 1), (5, 1), (6, 2), (7, 4), (8, 4)])
def test_active_priorities_are_as_many_as_the_gic_has(bits: int, count: int) -> None:
    interface = struct.pack("<2Q", 7, bits - 1 << 8)

    registers = aarch64_state.list_active_priorities(interface)

    assert len(set(registers)) == len(registers) == 2 * count
    assert registers[0] == name_system_register(3, 0, 12, 8, 4)


@pytest.mark.parametrize("names", [bytes(7), bytes(8 * (aarch64_state.MAX_REGISTERS + 1))])
def test_list_of_registers_that_no_vcpu_has_is_refused(names: bytes) -> None:
    with pytest.raises(HostError, match="its registers are invalid"):
        aarch64_state.decode_register_names(names)


def test_list_of_registers_is_decoded() -> None:
    assert aarch64_state.decode_register_names(struct.pack("<2Q", X0, V0)) == [X0, V0]


def test_more_vcpus_than_the_gic_holds_are_refused() -> None:
    with pytest.raises(HostError, match="holds 16 vCPUs, not 17"):
        processor.connect(Vm(-1, 0, 0), [None] * (layout.MAX_VCPUS + 1))  # type: ignore[list-item]
