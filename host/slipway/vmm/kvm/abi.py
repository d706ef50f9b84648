"""Numbers and layouts of KVM's interface for all architectures (include/uapi/linux/kvm.h).

Numbers that each VM exit uses are plain integers: an enum's attribute costs more than the rest of
the look-up.
"""

from __future__ import annotations

import struct
from enum import IntEnum

DEVICE = "/dev/kvm"
API_VERSION = 12

# _IO(KVMIO, n) is 0xAE00 | n; _IOW and _IOR add direction and size.
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_VCPU_MMAP_SIZE = 0xAE04

KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_CREATE_IRQCHIP = 0xAE60
KVM_REGISTER_COALESCED_MMIO = 0x4010AE67
KVM_IRQFD = 0x4020AE76
KVM_CREATE_DEVICE = 0xC00CAEE0

KVM_RUN = 0xAE80

# struct kvm_userspace_memory_region: slot, flags, guest_phys_addr, memory_size, userspace_addr
MEMORY_REGION = struct.Struct("=IIQQQ")
MEM_READONLY = 1 << 1
# struct kvm_irqfd: fd, gsi, flags, resamplefd, padding[16]
IRQFD = struct.Struct("=IIII16x")
# struct kvm_create_device: type, fd, flags
CREATE_DEVICE = struct.Struct("=III")
CREATE_DEVICE_TEST = 1
# struct kvm_coalesced_mmio_zone: addr, size, pio
COALESCED_ZONE = struct.Struct("=QII")
# struct kvm_coalesced_mmio_ring: first, last, then entries of struct kvm_coalesced_mmio: phys_addr,
# len, pio, data[8]
RING_INDICES = struct.Struct("=II")
RING_FIRST = struct.Struct("=I")
RING_ENTRIES_OFFSET = 8
RING_ENTRY_SIZE = 24
RING_ENTRY = struct.Struct("=QII8s")
PAGE_SIZE = 4096
# The ring is one page; KVM_COALESCED_MMIO_MAX in virt/kvm/coalesced_mmio.c. It holds one less.
RING_ENTRIES = (PAGE_SIZE - RING_ENTRIES_OFFSET) // RING_ENTRY_SIZE

# struct kvm_run
RUN_IMMEDIATE_EXIT_OFFSET = 1
EXIT_REASON_OFFSET = 8
EXIT_UNION_OFFSET = 32
# .io: direction, size, port, count, data_offset
EXIT_IO = struct.Struct("=BBHIQ")
IO_OUT = 1
# .mmio: phys_addr, data[8], len, is_write
EXIT_MMIO = struct.Struct("=Q8sIB")
MMIO_DATA_OFFSET = EXIT_UNION_OFFSET + 8
# .fail_entry: hardware_entry_failure_reason; .internal: suberror, ndata, data; .system_event: type
EXIT_FAIL_ENTRY = struct.Struct("=Q")
EXIT_INTERNAL = struct.Struct("=II")
EXIT_SYSTEM_EVENT = struct.Struct("=I")

EXIT_IO_REASON = 2
EXIT_MMIO_REASON = 6


class ExitReason(IntEnum):
    """Reasons why KVM_RUN returns."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    WATCHDOG = 21
    EPR = 23
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    X86_RDMSR = 29
    X86_WRMSR = 30


class InternalError(IntEnum):
    """Suberrors of KVM_EXIT_INTERNAL_ERROR."""

    EMULATION = 1
    SIMUL_EX = 2
    DELIVERY_EV = 3
    UNEXPECTED_EXIT_REASON = 4


class SystemEvent(IntEnum):
    """Types of KVM_EXIT_SYSTEM_EVENT."""

    SHUTDOWN = 1
    RESET = 2
    CRASH = 3


class Capability(IntEnum):
    """Capabilities, the arguments of KVM_CHECK_EXTENSION."""

    IRQCHIP = 0
    USER_MEMORY = 3
    SET_TSS_ADDR = 4
    EXT_CPUID = 7
    MP_STATE = 14
    COALESCED_MMIO = 15
    IRQFD = 32
    MAX_VCPUS = 66
    ONE_REG = 70
    TSC_DEADLINE_TIMER = 72
    DEVICE_CTRL = 89
    ARM_PSCI_0_2 = 102
    IMMEDIATE_EXIT = 136
    COALESCED_PIO = 162
    ARM_VM_IPA_SIZE = 165
    XSAVE2 = 208


# Required capabilities and their purposes; kernels from 4.20 on have all of them.
NEEDED = {
    Capability.USER_MEMORY: "guest memory",
    Capability.IRQCHIP: "an interrupt controller in the kernel",
    Capability.MP_STATE: "several vCPUs",
    Capability.IRQFD: "interrupts by eventfd",
    Capability.IMMEDIATE_EXIT: "stopping a vCPU",
    Capability.COALESCED_MMIO: "coalesced writes",
    Capability.COALESCED_PIO: "coalesced writes to ports",
}
# The same for one architecture each, by the name that uname(2) reports.
NEEDED_BY_MACHINE = {
    "x86_64": {
        Capability.EXT_CPUID: "CPUID",
        Capability.SET_TSS_ADDR: "real mode",
    },
    "aarch64": {
        Capability.ONE_REG: "registers of a vCPU",
        Capability.DEVICE_CTRL: "an interrupt controller in the kernel",
        Capability.ARM_PSCI_0_2: "several vCPUs",
    },
}
