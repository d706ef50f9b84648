"""KVM's interface on aarch64 alone: vCPU features, registers one by one, the GIC's attributes.

Linux, arch/arm64/include/uapi/asm/kvm.h; Documentation/virt/kvm/devices/arm-vgic-v3.rst.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from enum import IntEnum
from itertools import accumulate, count, islice, repeat

from slipway._util.errors import HostError
from slipway.vmm.kvm.abi import Capability
from slipway.vmm.kvm.failure import explain_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

KVM_GET_ONE_REG = 0x4010AEAB
KVM_SET_ONE_REG = 0x4010AEAC
KVM_ARM_VCPU_INIT = 0x4020AEAE
KVM_ARM_PREFERRED_TARGET = 0x8020AEAF
KVM_GET_REG_LIST = 0xC008AEB0
KVM_SET_DEVICE_ATTR = 0x4018AEE1
KVM_GET_DEVICE_ATTR = 0x4018AEE2

# struct kvm_vcpu_init: target, features[7]
VCPU_INIT = struct.Struct("=I7I")
_POWER_OFF, _PSCI_0_2 = 1 << 0, 1 << 2
# struct kvm_one_reg: id, address of the value
ONE_REG = struct.Struct("=QQ")
# struct kvm_device_attr: flags, group, attr, address of the value
DEVICE_ATTR = struct.Struct("=IIQQ")

# Identifiers of registers: 0x60 for arm64, the logarithm of the size in the next four bits.
_SIZE_SHIFT, _SIZE_MASK = 52, 0xF
_CORE = 0x6030_0000_0010_0000
_SYSTEM = 0x6030_0000_0013_0000
# Offsets in struct kvm_regs, in units of four bytes.
_X, _SP, _PC, _PSTATE, _ELR = 0, 248 // 4, 256 // 4, 264 // 4, 280 // 4
X0, PC = _CORE | _X, _CORE | _PC
GENERAL_REGISTERS = {
    **{f"x{number}": _CORE | 2 * number for number in range(31)},
    "sp": _CORE | _SP,
    "pc": PC,
    "pstate": _CORE | _PSTATE,
    "elr": _CORE | _ELR,
}


def name_system_register(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """Return the number of a system register within 16 bits, as instructions encode it."""
    return op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


SYSTEM_REGISTERS = {
    name: _SYSTEM | name_system_register(*encoding)
    for name, encoding in {
        "sctlr": (3, 0, 1, 0, 0),
        "ttbr0": (3, 0, 2, 0, 0),
        "ttbr1": (3, 0, 2, 0, 1),
        "tcr": (3, 0, 2, 0, 2),
        "esr": (3, 0, 5, 2, 0),
        "far": (3, 0, 6, 0, 0),
        "vbar": (3, 0, 12, 0, 0),
    }.items()
}

VGIC_V3 = 7  # KVM_DEV_TYPE_ARM_VGIC_V3
_DISTRIBUTOR_ADDRESS, _REDISTRIBUTOR_ADDRESS = 2, 3
_CTRL_INIT = 0
_NO_SUCH_DEVICE = {errno.ENODEV, errno.ENXIO}


class VgicGroup(IntEnum):
    """Groups of a GIC's attributes (KVM_DEV_ARM_VGIC_GRP)."""

    ADDRESS = 0
    DISTRIBUTOR = 1
    LINES = 3
    CONTROL = 4
    REDISTRIBUTOR = 5
    CPU_INTERFACE = 6
    LEVELS = 7


def find_machine_type(kvm: Kvm) -> int:
    """Return the argument of KVM_CREATE_VM: guest addresses of 40 bits, or of fewer.

    A processor with fewer bits refuses the default, which is 40.
    """
    bits = kvm.get_capability(Capability.ARM_VM_IPA_SIZE)
    return bits if 0 < bits < 40 else 0


def initialise_vcpus(vm: Vm, vcpus: Sequence[Vcpu]) -> None:
    """Reset new vCPUs; all but the first wait for PSCI's CPU_ON.

    Raises:
        HostError: KVM refuses.
    """
    preferred = bytearray(VCPU_INIT.size)
    with explain_failure("KVM_ARM_PREFERRED_TARGET"):
        fcntl.ioctl(vm.fd, KVM_ARM_PREFERRED_TARGET, preferred)
    (target, *_) = VCPU_INIT.unpack(preferred)
    for vcpu in vcpus:
        features = _PSCI_0_2 | (_POWER_OFF if vcpu.number else 0)
        with explain_failure("KVM_ARM_VCPU_INIT"):
            fcntl.ioctl(vcpu.fd, KVM_ARM_VCPU_INIT, VCPU_INIT.pack(target, features, *[0] * 6))


def check_vgic(vm: Vm) -> None:
    """Check that KVM can make a GICv3, for which the host's own has to be one.

    Raises:
        HostError: KVM cannot.
    """
    try:
        vm.check_device(VGIC_V3)
    except OSError as error:
        if error.errno in _NO_SUCH_DEVICE:
            raise HostError(
                "this host's interrupt controller is not a GICv3, which KVM needs to offer one",
                "Use --machine qemu.",
            ) from None
        with explain_failure("KVM_CREATE_DEVICE"):
            raise


def create_vgic(vm: Vm, distributor: int, redistributors: int, interrupts: int) -> None:
    """Make a GICv3 for the existing vCPUs of ``vm``.

    ``redistributors`` is the address of the first; each takes 128 KiB. ``interrupts`` counts all
    identifiers, the 32 of each vCPU among them.

    Raises:
        HostError: the host's interrupt controller is older, or KVM refuses.
    """
    check_vgic(vm)
    with explain_failure("KVM_CREATE_DEVICE"):
        device = vm.create_device(VGIC_V3)
    with explain_failure("placing the GIC"):
        _set_attribute(device, VgicGroup.ADDRESS, _DISTRIBUTOR_ADDRESS, distributor)
        _set_attribute(device, VgicGroup.ADDRESS, _REDISTRIBUTOR_ADDRESS, redistributors)
        _set_attribute(device, VgicGroup.LINES, 0, interrupts)
        _set_attribute(device, VgicGroup.CONTROL, _CTRL_INIT, 0)


def _set_attribute(device: int, group: VgicGroup, attribute: int, value: int) -> None:
    """Set an attribute; KVM takes 4 or 8 bytes of the little-endian value."""
    buffer = ctypes.c_uint64(value)
    request = DEVICE_ATTR.pack(0, group, attribute, ctypes.addressof(buffer))
    fcntl.ioctl(device, KVM_SET_DEVICE_ATTR, request)


def read_vgic_values(device: int, group: VgicGroup, attributes: Sequence[int], size: int) -> bytes:
    """Return the values of attributes, ``size`` bytes each. All vCPUs stand still.

    Raises:
        HostError: KVM refuses, or a vCPU runs.
    """
    buffer = ctypes.create_string_buffer(size * len(attributes))
    with explain_failure(f"reading the GIC's {group.name.lower()}"):
        for request in _build_requests(group, attributes, buffer, size):
            fcntl.ioctl(device, KVM_GET_DEVICE_ATTR, request)
    return buffer.raw


def set_vgic_values(
    device: int, group: VgicGroup, attributes: Sequence[int], values: bytes
) -> None:
    """Set attributes to their parts of ``values``, which have the same size each.

    Raises:
        HostError: KVM refuses.
    """
    buffer = ctypes.create_string_buffer(values, len(values))
    ioctl = fcntl.ioctl
    with explain_failure(f"setting the GIC's {group.name.lower()}"):
        for request in _build_requests(group, attributes, buffer, len(values) // len(attributes)):
            ioctl(device, KVM_SET_DEVICE_ATTR, request)


def _build_requests(
    group: VgicGroup, attributes: Sequence[int], buffer: ctypes.Array[ctypes.c_char], size: int
) -> Iterator[bytes]:
    """Yield a request for each attribute, whose value of ``size`` bytes is in ``buffer``."""
    addresses = count(ctypes.addressof(buffer), size)
    return map(DEVICE_ATTR.pack, repeat(0), repeat(group), attributes, addresses)


def find_register_sizes(registers: Sequence[int]) -> list[int]:
    """Return the bytes of each register's value."""
    return [1 << (register >> _SIZE_SHIFT & _SIZE_MASK) for register in registers]


def list_registers(vcpu: Vcpu) -> list[int]:
    """Return the identifiers of all registers of an initialised vCPU, in KVM's order.

    Raises:
        HostError: KVM refuses.
    """
    count = bytearray(8)  # struct kvm_reg_list: n, reg[n]
    try:
        fcntl.ioctl(vcpu.fd, KVM_GET_REG_LIST, count)
    except OSError as error:
        if error.errno != errno.E2BIG:  # how the number is reported
            with explain_failure("KVM_GET_REG_LIST"):
                raise
    (number,) = struct.unpack("=Q", count)
    listed = bytearray(struct.pack(f"={number + 1}Q", number, *[0] * number))
    with explain_failure("KVM_GET_REG_LIST"):
        fcntl.ioctl(vcpu.fd, KVM_GET_REG_LIST, listed)
    return list(struct.unpack_from(f"={number}Q", listed, 8))


def read_registers(vcpu: Vcpu, registers: Sequence[int]) -> bytes:
    """Return the values of ``registers`` one behind the other, each of its own size.

    Raises:
        HostError: KVM refuses a register.
    """
    sizes = find_register_sizes(registers)
    buffer = ctypes.create_string_buffer(sum(sizes))
    with explain_failure("KVM_GET_ONE_REG"):
        for request in map(ONE_REG.pack, registers, _place_values(buffer, sizes)):
            fcntl.ioctl(vcpu.fd, KVM_GET_ONE_REG, request)
    return buffer.raw


def read_register(vcpu: Vcpu, register: int) -> int:
    """Return the value of one register.

    Raises:
        HostError: KVM refuses.
    """
    return int.from_bytes(read_registers(vcpu, [register]), "little")


def set_registers(vcpu: Vcpu, registers: Sequence[int], values: bytes) -> None:
    """Set ``registers`` to ``values``, which :func:`read_registers` returned.

    Raises:
        HostError: KVM refuses a register or its value.
    """
    buffer = ctypes.create_string_buffer(values, len(values))
    addresses = _place_values(buffer, find_register_sizes(registers))
    ioctl, descriptor = fcntl.ioctl, vcpu.fd
    for register, request in zip(registers, map(ONE_REG.pack, registers, addresses), strict=True):
        try:
            ioctl(descriptor, KVM_SET_ONE_REG, request)
        except OSError:
            with explain_failure(f"setting a vCPU's register {register:#x}"):
                raise


def _place_values(buffer: ctypes.Array[ctypes.c_char], sizes: Sequence[int]) -> Iterator[int]:
    """Yield the address of each value in ``buffer``."""
    ends = accumulate(sizes, initial=ctypes.addressof(buffer))
    return islice(ends, len(sizes))


def set_register(vcpu: Vcpu, register: int, value: int) -> None:
    """Set one register of 8 bytes.

    Raises:
        HostError: KVM refuses.
    """
    set_registers(vcpu, [register], value.to_bytes(8, "little"))
