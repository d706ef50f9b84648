"""State of the processors and the interrupt controller of a VM."""

from __future__ import annotations

from slipway.vmm.arch.aarch64 import layout
from slipway.vmm.kvm import aarch64_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.arch.model import Parts
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm


class ArmProcessorState:
    """See :class:`slipway.vmm.arch.model.ProcessorState`."""

    __slots__ = ()

    def save(self, vm: Vm, vcpus: Sequence[Vcpu]) -> tuple[list[Parts], Parts]:
        """See :meth:`slipway.vmm.arch.model.ProcessorState.save`."""
        parts = [aarch64_state.save_vcpu(vcpu) for vcpu in vcpus]
        return parts, aarch64_state.save_vgic(vm, vcpus, layout.LINES)

    def restore(self, vm: Vm, vcpus: Sequence[Vcpu], saved: tuple[list[Parts], Parts]) -> None:
        """See :meth:`slipway.vmm.arch.model.ProcessorState.restore`."""
        for vcpu, parts in zip(vcpus, saved[0], strict=True):
            aarch64_state.restore_vcpu(vcpu, parts)
        aarch64_state.restore_vgic(vm, vcpus, saved[1], layout.LINES)
