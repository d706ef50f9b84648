"""State of the processors and interrupt controllers of a VM."""

from __future__ import annotations

from slipway.vmm.kvm import x86_64_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.arch.model import Parts
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm


class X86ProcessorState:
    """See :class:`slipway.vmm.arch.model.ProcessorState`."""

    __slots__ = ("_msrs", "_xsave")

    def __init__(self, kvm: Kvm) -> None:
        self._msrs = x86_64_state.list_msrs(kvm)
        self._xsave = x86_64_state.find_xsave_size(kvm)

    def save(self, vm: Vm, vcpus: Sequence[Vcpu]) -> tuple[list[Parts], Parts]:
        """See :meth:`slipway.vmm.arch.model.ProcessorState.save`."""
        parts = [x86_64_state.save_vcpu(vcpu, self._msrs, self._xsave) for vcpu in vcpus]
        return parts, x86_64_state.save_vm(vm)

    def restore(self, vm: Vm, vcpus: Sequence[Vcpu], saved: tuple[list[Parts], Parts]) -> None:
        """See :meth:`slipway.vmm.arch.model.ProcessorState.restore`."""
        for vcpu, parts in zip(vcpus, saved[0], strict=True):
            x86_64_state.restore_vcpu(vcpu, parts, self._xsave)
        x86_64_state.restore_vm(vm, saved[1])
