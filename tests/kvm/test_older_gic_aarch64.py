"""A host whose interrupt controller is a GICv2: its KVM is refused, with the reason.

The lab's usual board has a GICv3; ``make lab-arm-full`` runs these tests on another one.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway import HostError
from slipway.machine.hypervisors import choose
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.vmm.arch.aarch64 import architecture as arch
from slipway.vmm.kvm import aarch64, usability
from slipway.vmm.kvm.system import Kvm
from support.bare_metal import open_files
from support.machine_code_a64 import ArmCode, build_kernel

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.model import MachineSpec

REASON = "this host's interrupt controller is not a GICv3, which KVM needs to offer one"


@pytest.fixture(autouse=True)
def older_gic() -> None:
    """A host without a GICv3."""
    with closing(Kvm()) as kvm, closing(kvm.create_vm(arch.find_machine_type(kvm))) as vm:
        try:
            vm.check_device(aarch64.VGIC_V3)
        except OSError:
            return
    pytest.skip("this host has a GICv3")


def test_kvm_is_unusable_for_a_reason() -> None:
    assert usability.examine() == (False, REASON)


def test_auto_takes_the_other_machine_and_says_why(tmp_path: Path) -> None:
    hypervisor = choose("auto", tmp_path, "auto")

    assert hypervisor.name == "qemu"
    assert REASON in hypervisor.reason


async def test_machine_that_is_wanted_by_name_is_refused(spec: MachineSpec) -> None:
    with pytest.raises(HostError) as caught:
        await KvmHypervisor().start(spec)

    assert caught.value.message == f"KVM cannot be used here: {REASON}"
    assert "name qemu" in caught.value.hint


@pytest.mark.usefixtures("trust_kvm")
async def test_vmm_that_starts_nevertheless_says_so_and_leaves_nothing(spec: MachineSpec) -> None:
    spec.kernel.write_bytes(build_kernel(ArmCode().halt()))
    before = open_files()

    with pytest.raises(HostError) as caught:
        await KvmHypervisor().start(spec)

    assert (caught.value.message, caught.value.hint) == (REASON, "Use --machine qemu.")
    assert open_files() == before
    assert psutil.Process().children() == []
