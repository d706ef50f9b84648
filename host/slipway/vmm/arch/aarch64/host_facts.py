"""Facts of an aarch64 host that a snapshot depends on."""

from __future__ import annotations

from contextlib import closing

from slipway.vmm.arch.cpu_info import read_cpu_info
from slipway.vmm.kvm import aarch64
from slipway.vmm.kvm.abi import Capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.kvm.system import Kvm

_NAMES = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision")
# System registers with op0 3, op1 0, CRn 0 and CRm from 1 on identify features (Arm ARM, section
# D17.1). With CRm 0 are the numbers of model and processor.
_SYSTEM, _SYSTEM_MASK = 0x6030_0000_0013_C000, ~0x7F
_FIRST_FEATURE = 1 << 3


def list_facts(kvm: Kvm) -> list[object]:
    """Return model, width of guest addresses, names of a vCPU's registers, and its features.

    Raises:
        HostError: KVM refuses a call.
    """
    facts: list[object] = [
        read_cpu_info(_NAMES),
        kvm.get_capability(Capability.ARM_VM_IPA_SIZE),
    ]
    with (
        closing(kvm.create_vm(aarch64.find_machine_type(kvm))) as vm,
        closing(vm.create_vcpu(0)) as vcpu,
    ):
        aarch64.initialise_vcpus(vm, [vcpu])
        registers = aarch64.list_registers(vcpu)
        features = [register for register in registers if is_feature(register)]
        return [*facts, *registers, aarch64.read_registers(vcpu, features)]


def is_feature(register: int) -> bool:
    """Check if a register, named as KVM names it, tells a processor's features."""
    return register & _SYSTEM_MASK == _SYSTEM and register & ~_SYSTEM_MASK >= _FIRST_FEATURE
