"""Check if this host's KVM is usable: it may open, and still interpret every instruction.

That is answered by timing a guest of four instructions. On hardware a turn of its loop takes a few
nanoseconds. A KVM that emulates kernel mode takes over 500, and Linux would not boot there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway._util.once_per_boot import measure_once_per_boot
from slipway.vmm.kvm import abi, x86_64
from slipway.vmm.kvm.system import Kvm, explain_open_error

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.vmm.kvm.vcpu import Vcpu

TURNS = 10_000
# On an emulated host, the first entry of a vCPU costs more than the loop.
ATTEMPTS = 3
SLOW_NANOSECONDS = 100
_CODE_ADDRESS = 0x1000
_MEMORY_SIZE = 0x2000
# 16-bit real mode: mov ecx, TURNS; again: dec ecx; jnz again; hlt
_CODE = b"\x66\xb9" + TURNS.to_bytes(4, "little") + b"\x66\x49\x75\xfc\xf4"


def examine(state: Path | None = None) -> tuple[bool, str]:
    """Return if KVM is usable, and the reason in a few words.

    The directory ``state`` keeps the measured time until the next boot of the host.
    """
    if os.uname().machine != "x86_64":
        return False, f"the architecture {os.uname().machine} is not supported yet"
    try:
        os.close(os.open(abi.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        message, hint = explain_open_error(error)
        return False, f"{message}. {hint}"
    try:
        if state is None:
            picoseconds = time_guest_loop()
        else:
            picoseconds = measure_once_per_boot(state / "kvm-loop-ps", time_guest_loop)
    except HostError as error:
        return False, error.message
    nanoseconds = picoseconds / 1000
    if nanoseconds > SLOW_NANOSECONDS:
        return False, (
            "it interprets guest code for lack of hardware virtualisation, and Linux does not boot"
            f" there; measured: {nanoseconds:.0f} ns for one turn of a short loop, which takes a"
            " processor a few ns"
        )
    return True, (
        "usable: the processor executes guest code; measured:"
        f" {nanoseconds:.1f} ns for one turn of a short loop"
    )


def time_guest_loop() -> int:
    """Return the picoseconds that a turn of the guest's loop takes.

    Raises:
        HostError: KVM is missing, not permitted, or refuses this guest.
    """
    with ExitStack() as cleanup:
        kvm = cleanup.enter_context(closing(Kvm()))
        vm = cleanup.enter_context(closing(kvm.create_vm()))
        memory = mmap.mmap(-1, _MEMORY_SIZE)
        cleanup.callback(memory.close)
        memory[_CODE_ADDRESS : _CODE_ADDRESS + len(_CODE)] = _CODE
        # The anchor keeps the mapping from being closed; callbacks run last in, first out.
        anchors = [ctypes.c_char.from_buffer(memory)]
        cleanup.callback(anchors.clear)
        vm.set_memory(0, 0, _MEMORY_SIZE, ctypes.addressof(anchors[0]))
        vcpu = cleanup.enter_context(closing(vm.create_vcpu(0)))
        sregs = x86_64.read_special_registers(vcpu)
        real_mode = x86_64.SegmentRegister(0, x86_64.REAL_MODE_CODE)
        real_mode.limit = 0xFFFF
        real_mode.pack_into(sregs, x86_64.find_segment_offset("cs"))
        x86_64.set_special_registers(vcpu, sregs)
        return min(_time_once(vcpu) for _ in range(ATTEMPTS)) * 1000 // TURNS


def _time_once(vcpu: Vcpu) -> int:
    """Return the nanoseconds that the guest takes on ``vcpu``."""
    x86_64.set_registers(vcpu, rip=_CODE_ADDRESS)
    began = time.perf_counter_ns()
    try:
        reason = vcpu.run()
    except OSError as error:
        raise HostError(f"KVM_RUN failed: {error.strerror}") from None
    elapsed = time.perf_counter_ns() - began
    if reason != abi.ExitReason.HLT:
        raise HostError(f"a trivial guest ended with KVM's exit reason {reason}")
    return elapsed


def main() -> int:
    """Print the reason (``python -m``); return 0 if KVM is usable, else 1."""
    usable, reason = examine()
    print(f"KVM: {reason}")
    return 0 if usable else 1


if __name__ == "__main__":
    raise SystemExit(main())
