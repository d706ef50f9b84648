"""Complete state of a vCPU and of the GIC of KVM on aarch64, to be saved and restored.

All registers that KVM lists, as it lists them; the GIC's registers in the order of
Documentation/virt/kvm/devices/arm-vgic-v3.rst. Names and offsets of those: Arm IHI 0069, chapter 12
"Programmers' Model".
"""

from __future__ import annotations

import fcntl
import struct

from slipway._util.errors import HostError
from slipway.vmm.kvm import aarch64
from slipway.vmm.kvm.aarch64 import VgicGroup, name_system_register
from slipway.vmm.kvm.failure import explain_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

    Parts = dict[str, bytes | int]

KVM_GET_MP_STATE = 0x8004AE98
KVM_SET_MP_STATE = 0x4004AE99
KVM_GET_VCPU_EVENTS = 0x8040AE9F
KVM_SET_VCPU_EVENTS = 0x4040AEA0

# Calls that save a VM: all of them only read.
READING = (
    aarch64.KVM_GET_ONE_REG,
    aarch64.KVM_GET_REG_LIST,
    aarch64.KVM_GET_DEVICE_ATTR,
    KVM_GET_MP_STATE,
    KVM_GET_VCPU_EVENTS,
)

MAX_REGISTERS = 4096

# Name, request to read, request to set, size; set after the registers.
_LAST = {
    "mp_state": (KVM_GET_MP_STATE, KVM_SET_MP_STATE, 4),
    "events": (KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, 0x40),
}

# Private interrupts of a vCPU have the first 32 identifiers.
_PRIVATE = 32
# GICR: CTLR, WAKER; in the second frame IGROUPR0, ICFGR0 and 1, IPRIORITYR, ISENABLER0, ISPENDR0
# and ISACTIVER0.
_REDISTRIBUTOR = (
    *(0x0, 0x14, 0x1_0080, 0x1_0C00, 0x1_0C04),
    *range(0x1_0400, 0x1_0400 + _PRIVATE, 4),
    *(0x1_0100, 0x1_0200, 0x1_0300),
)
# ICC: SRE, CTLR, IGRPEN0, IGRPEN1, PMR, BPR0, BPR1. Those of active priorities, AP0R and AP1R,
# follow; there are as many of each as the bits of a priority need.
_INTERFACE = tuple(
    name_system_register(*encoding)
    for encoding in (
        *((3, 0, 12, 12, 5), (3, 0, 12, 12, 4), (3, 0, 12, 12, 6), (3, 0, 12, 12, 7)),
        *((3, 0, 4, 6, 0), (3, 0, 12, 8, 3), (3, 0, 12, 12, 3)),
    )
)
_CONTROL_INDEX = 1
_PRIORITY_BITS_SHIFT, _PRIORITY_BITS_MASK = 8, 7
_MPIDR = 0x6030_0000_0013_0000 | name_system_register(3, 0, 0, 0, 5)


def save_vcpu(vcpu: Vcpu) -> Parts:
    """Return the registers and pending events of ``vcpu``, which stands still.

    Raises:
        HostError: KVM refuses a call.
    """
    parts: Parts = {}
    for name, (get, _, size) in _LAST.items():
        buffer = bytearray(size)
        with explain_failure(f"reading a vCPU's {name}"):
            fcntl.ioctl(vcpu.fd, get, buffer)
        parts[name] = bytes(buffer)
    registers = aarch64.list_registers(vcpu)
    parts["names"] = struct.pack(f"={len(registers)}Q", *registers)
    parts["registers"] = aarch64.read_registers(vcpu, registers)
    return parts


def drop_initial_values(vcpu: Vcpu, parts: Parts) -> Parts:
    """Return the result of :func:`save_vcpu` without the registers that need not be set.

    These are the ones of which ``vcpu``, new and initialised, has the same value already: three
    quarters. KVM loads and unloads a vCPU for each register that it sets.

    Raises:
        HostError: a part is invalid, or not of this host.
    """
    registers, values = _decode_registers(parts)
    if registers != aarch64.list_registers(vcpu):
        raise _build_error("its vCPUs have other registers")
    initial = aarch64.read_registers(vcpu, registers)
    names, changed, at = [], [], 0
    for register, size in zip(registers, aarch64.find_register_sizes(registers), strict=True):
        value = values[at : at + size]
        if value != initial[at : at + size]:
            names.append(register)
            changed.append(value)
        at += size
    return parts | {
        "names": struct.pack(f"={len(names)}Q", *names),
        "registers": b"".join(changed),
    }


def restore_vcpu(vcpu: Vcpu, parts: Parts) -> None:
    """Restore the result of :func:`drop_initial_values` in ``vcpu``, new and initialised.

    Raises:
        HostError: a part is invalid, or KVM refuses a value.
    """
    for name, (_, _, size) in _LAST.items():
        _get_bytes(parts, name, size)
    aarch64.set_registers(vcpu, *_decode_registers(parts))
    for name, (_, request, size) in _LAST.items():
        with explain_failure(f"setting a vCPU's {name}"):
            fcntl.ioctl(vcpu.fd, request, _get_bytes(parts, name, size))


def _decode_registers(parts: Parts) -> tuple[list[int], bytes]:
    registers = decode_register_names(_get_bytes(parts, "names"))
    size = sum(aarch64.find_register_sizes(registers))
    return registers, _get_bytes(parts, "registers", size)


def decode_register_names(names: bytes) -> list[int]:
    """Return the identifiers of registers, 8 bytes each.

    Raises:
        HostError: there are too many, or the last is cut short.
    """
    count, cut = divmod(len(names), 8)
    if cut or count > MAX_REGISTERS:
        raise _build_error("its registers are invalid")
    return list(struct.unpack(f"={count}Q", names))


def _get_bytes(parts: Parts, name: str, size: int | None = None) -> bytes:
    part = parts.get(name)
    if type(part) is not bytes:
        raise _build_error(f"its {name} is missing")
    if size is not None and len(part) != size:
        raise _build_error(f"its {name} has another size than here")
    return part


def _build_error(reason: str) -> HostError:
    return HostError(f"the snapshot is not of this host: {reason}", "Make it again.")


def list_distributor_registers(lines: int) -> list[int]:
    """Return the offsets of the distributor's registers for ``lines`` shared interrupts.

    IIDR first, by which KVM knows the meaning of the others. Of IROUTER only the lower halves: the
    upper ones name vCPUs beyond those that a VM has.
    """
    first, end = _PRIVATE, _PRIVATE + lines
    return [
        *(0x8, 0x0),  # IIDR, CTLR
        *range(0x80 + first // 8, 0x80 + end // 8, 4),  # IGROUPR
        *range(0xC00 + first // 4, 0xC00 + end // 4, 4),  # ICFGR
        *range(0x400 + first, 0x400 + end, 4),  # IPRIORITYR
        *range(0x6000 + first * 8, 0x6000 + end * 8, 8),  # IROUTER
        *range(0x100 + first // 8, 0x100 + end // 8, 4),  # ISENABLER
        *range(0x200 + first // 8, 0x200 + end // 8, 4),  # ISPENDR
        *range(0x300 + first // 8, 0x300 + end // 8, 4),  # ISACTIVER
    ]


def save_vgic(vm: Vm, vcpus: Sequence[Vcpu], lines: int) -> Parts:
    """Return the state of the GIC of ``vm``, whose vCPUs stand still.

    Raises:
        HostError: KVM refuses a call.
    """
    device = vm.devices[aarch64.VGIC_V3]
    parts: Parts = {
        "distributor": aarch64.read_vgic_values(
            device, VgicGroup.DISTRIBUTOR, list_distributor_registers(lines), 4
        ),
        "levels": aarch64.read_vgic_values(device, VgicGroup.LEVELS, [_PRIVATE], 4),
    }
    for vcpu in vcpus:
        affinity = _read_affinity(vcpu) << 32
        number = vcpu.number
        parts[f"redistributor{number}"] = aarch64.read_vgic_values(
            device, VgicGroup.REDISTRIBUTOR, [affinity | at for at in _REDISTRIBUTOR], 4
        )
        parts[f"levels{number}"] = aarch64.read_vgic_values(device, VgicGroup.LEVELS, [affinity], 4)
        group = VgicGroup.CPU_INTERFACE
        fixed = aarch64.read_vgic_values(device, group, [affinity | at for at in _INTERFACE], 8)
        active = [affinity | at for at in list_active_priorities(fixed)]
        parts[f"interface{number}"] = fixed + aarch64.read_vgic_values(device, group, active, 8)
    return parts


def list_active_priorities(interface: bytes) -> list[int]:
    """Return the registers of active priorities for the first values of a CPU interface.

    ICC_CTLR_EL1.PRIbits is the number of a priority's bits minus one: up to 5 bits have one
    register for each of the two groups, 6 have two, 7 have four.
    """
    control = int.from_bytes(interface[8 * _CONTROL_INDEX :][:8], "little")
    bits = (control >> _PRIORITY_BITS_SHIFT & _PRIORITY_BITS_MASK) + 1
    count = 1 << max(0, min(bits, 7) - 5)
    first_group = [name_system_register(3, 0, 12, 8, 4 + number) for number in range(count)]
    return first_group + [name_system_register(3, 0, 12, 9, number) for number in range(count)]


def restore_vgic(vm: Vm, vcpus: Sequence[Vcpu], parts: Parts, lines: int) -> None:
    """Restore the result of :func:`save_vgic` in ``vm``, whose vCPUs are restored.

    Raises:
        HostError: a part is invalid, or KVM refuses a call.
    """
    device = vm.devices[aarch64.VGIC_V3]
    distributor = list_distributor_registers(lines)
    shared = _get_bytes(parts, "distributor", 4 * len(distributor))
    affinities = [_read_affinity(vcpu) << 32 for vcpu in vcpus]
    for vcpu, affinity in zip(vcpus, affinities, strict=True):
        values = _get_bytes(parts, f"redistributor{vcpu.number}", 4 * len(_REDISTRIBUTOR))
        registers = [affinity | at for at in _REDISTRIBUTOR]
        aarch64.set_vgic_values(device, VgicGroup.REDISTRIBUTOR, registers, values)
    aarch64.set_vgic_values(device, VgicGroup.DISTRIBUTOR, distributor, shared)
    for vcpu, affinity in zip(vcpus, affinities, strict=True):
        values = _get_bytes(parts, f"interface{vcpu.number}")
        names = [*_INTERFACE, *list_active_priorities(values)]
        if len(values) != 8 * len(names):
            raise _build_error("its interrupt controllers are invalid")
        registers = [affinity | at for at in names]
        aarch64.set_vgic_values(device, VgicGroup.CPU_INTERFACE, registers, values)
        levels = _get_bytes(parts, f"levels{vcpu.number}", 4)
        aarch64.set_vgic_values(device, VgicGroup.LEVELS, [affinity], levels)
    levels = _get_bytes(parts, "levels", 4)
    aarch64.set_vgic_values(device, VgicGroup.LEVELS, [_PRIVATE], levels)


def _read_affinity(vcpu: Vcpu) -> int:
    """Return the vCPU's number for the GIC: the fields Aff3 to Aff0 of MPIDR_EL1."""
    mpidr = aarch64.read_register(vcpu, _MPIDR)
    return mpidr >> 8 & 0xFF00_0000 | mpidr & 0x00FF_FFFF
