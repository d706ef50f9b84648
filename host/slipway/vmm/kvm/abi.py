"""Numbers and layouts of KVM's interface on x86-64 (include/uapi/linux/kvm.h)."""

from __future__ import annotations

import struct
from enum import IntEnum

DEVICE = "/dev/kvm"
API_VERSION = 12

# _IO(KVMIO, n) is 0xAE00 | n; _IOW and _IOR add direction and size.
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_RUN = 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84

# struct kvm_userspace_memory_region: slot, flags, guest_phys_addr, memory_size, userspace_addr
MEMORY_REGION = struct.Struct("=IIQQQ")
# struct kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags
REGS = struct.Struct("=18Q")
RFLAGS_RESERVED = 0x2  # bit 1 reads as one on every x86
SREGS_SIZE = 0x138
# struct kvm_sregs begins with cs; struct kvm_segment begins with base (u64), limit (u32), selector
SEGMENT_BASE = struct.Struct("=QIH")

# struct kvm_run
EXIT_REASON = struct.Struct("=I")
EXIT_REASON_OFFSET = 8


class ExitReason(IntEnum):
    """Why KVM_RUN returned."""

    UNKNOWN = 0
    IO = 2
    HLT = 5
    MMIO = 6
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTERNAL_ERROR = 17
