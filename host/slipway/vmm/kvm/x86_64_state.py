"""Complete state of a vCPU and a VM of KVM on x86-64, to be saved and restored.

The structures stay the bytes of KVM (arch/x86/include/uapi/asm/kvm.h), which checks them when they
are set.
"""

from __future__ import annotations

import fcntl
import struct

from slipway._util.errors import HostError
from slipway.vmm.kvm import x86_64
from slipway.vmm.kvm.abi import Capability
from slipway.vmm.kvm.failure import explain_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

KVM_GET_MSR_INDEX_LIST = 0xC004AE02
KVM_GET_IRQCHIP = 0xC208AE62
KVM_SET_IRQCHIP = 0x8208AE63
KVM_SET_CLOCK = 0x4030AE7B
KVM_GET_CLOCK = 0x8030AE7C
KVM_GET_MSRS = 0xC008AE88
KVM_GET_CPUID2 = 0xC008AE91
KVM_GET_MP_STATE = 0x8004AE98
KVM_SET_MP_STATE = 0x4004AE99
KVM_GET_VCPU_EVENTS = 0x8040AE9F
KVM_SET_VCPU_EVENTS = 0x4040AEA0
KVM_GET_DEBUGREGS = 0x8080AEA1
KVM_SET_DEBUGREGS = 0x4080AEA2
KVM_SET_TSC_KHZ = 0xAEA2
KVM_GET_TSC_KHZ = 0xAEA3
KVM_GET_XSAVE = 0x9000AEA4
KVM_SET_XSAVE = 0x5000AEA5
KVM_GET_XCRS = 0x8188AEA6
KVM_SET_XCRS = 0x4188AEA7
KVM_GET_XSAVE2 = 0x9000AECF

# Calls that save a VM: all of them only read.
READING = (
    x86_64.KVM_GET_REGS,
    x86_64.KVM_GET_SREGS,
    x86_64.KVM_GET_LAPIC,
    KVM_GET_IRQCHIP,
    KVM_GET_CLOCK,
    KVM_GET_MSRS,
    KVM_GET_CPUID2,
    KVM_GET_MP_STATE,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_DEBUGREGS,
    KVM_GET_TSC_KHZ,
    KVM_GET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_GET_XCRS,
)

# Size of struct kvm_xsave, larger only for guests with AMX.
XSAVE_SIZE = 4096
MAX_XSAVE_SIZE = 64 * 1024
# struct kvm_irqchip: chip_id, pad, and the chip: master, slave or IOAPIC.
IRQCHIP_SIZE = 520
IRQCHIPS = 3
# struct kvm_clock_data: clock, flags, pad, realtime, host_tsc, pad[4]. Without flags, only the
# first is taken, in ns.
CLOCK = struct.Struct("=Q40x")
MAX_MSRS = 1024

_TSC, _TSC_DEADLINE = 0x10, 0x6E0
# KVM keeps the memory types but does not list them: IA32_MTRR_DEF_TYPE, the fixed ranges and
# eight variable ones.
_MTRRS = (0x2FF, 0x250, 0x258, 0x259, *range(0x268, 0x270), *range(0x200, 0x210))
# Registers of Hyper-V, of which no guest is told.
_UNUSED = range(0x4000_0000, 0x4000_0200)

# Name, request to read, request to set, size; in the order of setting. Segments and CR4 come before
# dependent registers, the local APIC before the deadline of its timer, an MSR.
_FIXED = {
    "sregs": (x86_64.KVM_GET_SREGS, x86_64.KVM_SET_SREGS, x86_64.SREGS_SIZE),
    "xcrs": (KVM_GET_XCRS, KVM_SET_XCRS, 0x188),
    "xsave": (KVM_GET_XSAVE, KVM_SET_XSAVE, XSAVE_SIZE),
    "regs": (x86_64.KVM_GET_REGS, x86_64.KVM_SET_REGS, x86_64.REGS.size),
    "debug": (KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, 0x80),
    "lapic": (x86_64.KVM_GET_LAPIC, x86_64.KVM_SET_LAPIC, x86_64.LAPIC_SIZE),
}
_LAST = {
    "mp_state": (KVM_GET_MP_STATE, KVM_SET_MP_STATE, 4),
    "events": (KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, 0x40),
}


def list_msrs(kvm: Kvm) -> list[int]:
    """Return the model-specific registers of a vCPU, in the order in which to set them."""
    buffer = bytearray(struct.pack("=I", MAX_MSRS) + bytes(4 * MAX_MSRS))
    with explain_failure("KVM_GET_MSR_INDEX_LIST"):
        fcntl.ioctl(kvm.fd, KVM_GET_MSR_INDEX_LIST, buffer)
    (count,) = struct.unpack_from("=I", buffer)
    listed = struct.unpack_from(f"={count}I", buffer, 4)
    ends = (_TSC, _TSC_DEADLINE)  # the deadline is a time of the TSC
    rest = [index for index in (*listed, *_MTRRS) if index not in ends and index not in _UNUSED]
    return [_TSC, *dict.fromkeys(rest), _TSC_DEADLINE]


def find_xsave_size(kvm: Kvm) -> int:
    """Return the bytes of the floating-point and vector registers."""
    return max(XSAVE_SIZE, kvm.get_capability(Capability.XSAVE2))


def save_vcpu(vcpu: Vcpu, msrs: Sequence[int], xsave: int) -> dict[str, bytes | int]:
    """Return the complete state of ``vcpu``, which stands still.

    Raises:
        HostError: KVM refuses a call.
    """
    parts: dict[str, bytes | int] = {}
    # mp_state first: KVM handles pending events on that call, which may change other parts.
    for name, (get, _, size) in (_LAST | _FIXED).items():
        if name == "xsave" and xsave > XSAVE_SIZE:
            get, size = KVM_GET_XSAVE2, xsave  # noqa: PLW2901 (the one that is longer)
        parts[name] = bytes(_read_part(vcpu, name, get, bytearray(size)))
    parts["msrs"] = read_msrs(vcpu, msrs)
    header = x86_64.CPUID_HEADER.pack(x86_64.CPUID_MAX_ENTRIES)
    room = bytes(x86_64.CPUID_MAX_ENTRIES * x86_64.CPUID_ENTRY.size)
    cpuid = _read_part(vcpu, "cpuid", KVM_GET_CPUID2, bytearray(header + room))
    (count,) = x86_64.CPUID_HEADER.unpack_from(cpuid)
    entries = cpuid[len(header) :]
    parts["cpuid"] = bytes(entries[: count * x86_64.CPUID_ENTRY.size])
    parts["tsc_khz"] = read_tsc_khz(vcpu)
    return parts


def _read_part(vcpu: Vcpu, name: str, request: int, buffer: bytearray) -> bytearray:
    with explain_failure(f"reading a vCPU's {name}"):
        fcntl.ioctl(vcpu.fd, request, buffer)
    return buffer


def read_tsc_khz(vcpu: Vcpu) -> int:
    """Return the rate of the guest's time stamp counter."""
    with explain_failure("KVM_GET_TSC_KHZ"):
        return fcntl.ioctl(vcpu.fd, KVM_GET_TSC_KHZ, 0)


def read_msrs(vcpu: Vcpu, indices: Sequence[int]) -> bytes:
    """Return MSRs as struct kvm_msr_entry each, without those that KVM does not let be read."""
    entries = b""
    rest = list(indices)
    while rest:
        packed = b"".join(x86_64.MSR_ENTRY.pack(index, 0) for index in rest)
        buffer = bytearray(x86_64.MSR_HEADER.pack(len(rest)) + packed)
        with explain_failure("KVM_GET_MSRS"):
            done = fcntl.ioctl(vcpu.fd, KVM_GET_MSRS, buffer)
        begin = x86_64.MSR_HEADER.size
        entries += buffer[begin : begin + done * x86_64.MSR_ENTRY.size]
        rest = rest[done + 1 :]
    return entries


def restore_vcpu(vcpu: Vcpu, parts: dict[str, bytes | int], xsave: int) -> None:
    """Restore the result of :func:`save_vcpu` in ``vcpu``, which is new.

    Raises:
        HostError: a part is invalid, or not of this host.
    """
    sizes = {name: size for name, (_, _, size) in (_FIXED | _LAST).items()} | {"xsave": xsave}
    for name, size in sizes.items():
        if len(_get_bytes(parts, name)) != size:
            raise _build_error(f"its {name} has another size than here")
    cpuid, msrs = _get_bytes(parts, "cpuid"), _get_bytes(parts, "msrs")
    entries, cut = divmod(len(cpuid), x86_64.CPUID_ENTRY.size)
    if cut or entries > x86_64.CPUID_MAX_ENTRIES:
        raise _build_error("its CPUID is invalid")
    header = x86_64.CPUID_HEADER.pack(entries)
    _set_part(vcpu, "cpuid", x86_64.KVM_SET_CPUID2, header + cpuid)
    _set_rate(vcpu, parts.get("tsc_khz"))
    for name, (_, request, _) in _FIXED.items():
        _set_part(vcpu, name, request, _get_bytes(parts, name))
    _set_msrs(vcpu, msrs)
    for name, (_, request, _) in _LAST.items():
        _set_part(vcpu, name, request, _get_bytes(parts, name))


def _get_bytes(parts: dict[str, bytes | int], name: str) -> bytes:
    part = parts.get(name)
    if type(part) is not bytes:
        raise _build_error(f"its {name} is missing")
    return part


def _build_error(reason: str) -> HostError:
    return HostError(f"the snapshot is not of this host: {reason}", "Make it again.")


def _set_part(vcpu: Vcpu, name: str, request: int, data: bytes) -> None:
    with explain_failure(f"setting a vCPU's {name}"):
        fcntl.ioctl(vcpu.fd, request, bytearray(data))


def _set_rate(vcpu: Vcpu, khz: bytes | int | None) -> None:
    """Set the rate of the TSC: hosts measure a new rate at each boot, and KVM scales if needed."""
    if type(khz) is not int or not 0 < khz < 1 << 31:
        raise _build_error("the rate of its TSC is invalid")
    if khz != read_tsc_khz(vcpu):
        with explain_failure("setting the rate of a vCPU's TSC"):
            fcntl.ioctl(vcpu.fd, KVM_SET_TSC_KHZ, khz)


def _set_msrs(vcpu: Vcpu, entries: bytes) -> None:
    """Set MSRs; a refused register must have its value already, as read-only ones do."""
    size = x86_64.MSR_ENTRY.size
    if len(entries) % size or len(entries) > MAX_MSRS * size:
        raise _build_error("its MSRs are invalid")
    rest = entries
    while rest:
        buffer = bytearray(x86_64.MSR_HEADER.pack(len(rest) // size) + rest)
        with explain_failure("KVM_SET_MSRS"):
            done = fcntl.ioctl(vcpu.fd, x86_64.KVM_SET_MSRS, buffer)
        rest = rest[done * size :]
        if rest:
            refused, rest = rest[:size], rest[size:]
            index, _ = x86_64.MSR_ENTRY.unpack(refused)
            if read_msrs(vcpu, [index]) != refused:
                raise _build_error(f"its MSR {index:#x} cannot be set")


def save_vm(vm: Vm) -> dict[str, bytes | int]:
    """Return interrupt controllers and clock of ``vm``, whose vCPUs stand still.

    Raises:
        HostError: KVM refuses a call.
    """
    parts: dict[str, bytes | int] = {}
    for chip in range(IRQCHIPS):
        buffer = bytearray(struct.pack("=I", chip).ljust(IRQCHIP_SIZE, b"\0"))
        with explain_failure("KVM_GET_IRQCHIP"):
            fcntl.ioctl(vm.fd, KVM_GET_IRQCHIP, buffer)
        parts[f"irqchip{chip}"] = bytes(buffer)
    buffer = bytearray(CLOCK.size)
    with explain_failure("KVM_GET_CLOCK"):
        fcntl.ioctl(vm.fd, KVM_GET_CLOCK, buffer)
    parts["clock"] = CLOCK.unpack(buffer)[0]
    return parts


def restore_vm(vm: Vm, parts: dict[str, bytes | int]) -> None:
    """Restore the result of :func:`save_vm` in ``vm``, whose vCPUs are restored.

    The guest's clock continues from its saved time; the host tells the guest the time in between.

    Raises:
        HostError: a part is invalid, or KVM refuses a call.
    """
    for chip in range(IRQCHIPS):
        data = _get_bytes(parts, f"irqchip{chip}")
        if len(data) != IRQCHIP_SIZE or data[:4] != struct.pack("=I", chip):
            raise _build_error("its interrupt controllers are invalid")
        with explain_failure("KVM_SET_IRQCHIP"):
            fcntl.ioctl(vm.fd, KVM_SET_IRQCHIP, bytearray(data))
    clock = parts.get("clock")
    if type(clock) is not int:
        raise _build_error("its clock is missing")
    with explain_failure("KVM_SET_CLOCK"):
        fcntl.ioctl(vm.fd, KVM_SET_CLOCK, CLOCK.pack(clock))
