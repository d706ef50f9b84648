"""Check if this host's KVM is usable: it may open, and still interpret every instruction.

That is answered by timing a guest of a few instructions (``timed_loop_x86_64.py`` and its like). On
hardware a turn of its loop takes a few nanoseconds. A KVM that emulates kernel mode takes over 500,
and Linux would not boot there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from slipway._util.errors import HostError, ImageError
from slipway._util.once_per_boot import measure_once_per_boot
from slipway._util.units import format_size
from slipway.vmm.kvm import abi
from slipway.vmm.kvm.system import Kvm, explain_open_error

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Protocol

    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

    class TimedLoop(Protocol):
        """Guest of an architecture: a loop of ``TURNS`` turns, and an exit."""

        TURNS: int
        CODE: bytes
        END: int
        """The reason of the exit."""

        def find_machine_type(self, kvm: Kvm) -> int:
            """Return the argument of KVM_CREATE_VM."""
            ...

        def prepare(self, vm: Vm, vcpu: Vcpu) -> None:
            """Bring a new vCPU to where it may run.

            Raises:
                HostError: this host cannot run guests.
            """
            ...

        def rewind(self, vcpu: Vcpu, address: int) -> None:
            """Let the vCPU run ``CODE`` next, which is at ``address``."""
            ...


# On an emulated host, the first entry of a vCPU costs more than the loop.
ATTEMPTS = 3
# A busy host interrupts each of a few attempts; a KVM that interprets is slow in all.
MAX_ATTEMPTS = 12
SLOW_NANOSECONDS = 100
_CODE_ADDRESS = 0x1000
_MEMORY_SIZE = 0x2000
_PAGE_SIZE = 4096


def examine(state: Path | None = None) -> tuple[bool, str]:
    """Return if KVM is usable, and the reason in a few words.

    The directory ``state`` keeps the measured time until the next boot of the host.

    Raises:
        ImageError: another user can change the kept time, or it is no plain file.
    """
    if mmap.PAGESIZE != _PAGE_SIZE:
        return False, f"this host has pages of {format_size(mmap.PAGESIZE)}, and 4 KiB are needed"
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
    except ImageError:
        raise
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
    loop = _find_loop()
    with ExitStack() as cleanup:
        kvm = cleanup.enter_context(closing(Kvm()))
        vm = cleanup.enter_context(closing(kvm.create_vm(loop.find_machine_type(kvm))))
        memory = mmap.mmap(-1, _MEMORY_SIZE)
        cleanup.callback(memory.close)
        memory[_CODE_ADDRESS : _CODE_ADDRESS + len(loop.CODE)] = loop.CODE
        # The anchor keeps the mapping from being closed; callbacks run last in, first out.
        anchors = [ctypes.c_char.from_buffer(memory)]
        cleanup.callback(anchors.clear)
        vm.set_memory(0, 0, _MEMORY_SIZE, ctypes.addressof(anchors[0]))
        vcpu = cleanup.enter_context(closing(vm.create_vcpu(0)))
        loop.prepare(vm, vcpu)
        slow = SLOW_NANOSECONDS * loop.TURNS
        times = [_time_once(loop, vcpu) for _ in range(ATTEMPTS)]
        while min(times) > slow and len(times) < MAX_ATTEMPTS:
            times.append(_time_once(loop, vcpu))
        return min(times) * 1000 // loop.TURNS


def _find_loop() -> TimedLoop:
    machine = os.uname().machine
    if machine == "x86_64":
        from slipway.vmm.kvm import timed_loop_x86_64

        return timed_loop_x86_64
    if machine == "aarch64":
        from slipway.vmm.kvm import timed_loop_aarch64

        return timed_loop_aarch64
    raise HostError(f"the architecture {machine} is not supported")


def _time_once(loop: TimedLoop, vcpu: Vcpu) -> int:
    """Return the nanoseconds of CPU time that the guest takes on ``vcpu``.

    Those of the clock would include other processes of a busy host.
    """
    loop.rewind(vcpu, _CODE_ADDRESS)
    began = time.thread_time_ns()
    try:
        reason = vcpu.run()
    except OSError as error:
        raise HostError(f"KVM_RUN failed: {error.strerror}") from None
    elapsed = time.thread_time_ns() - began
    if reason != loop.END:
        raise HostError(f"a trivial guest ended with KVM's exit reason {reason}")
    return elapsed


def main() -> int:
    """Print the reason (``python -m``); return 0 if KVM is usable, else 1."""
    usable, reason = examine()
    print(f"KVM: {reason}")
    return 0 if usable else 1


if __name__ == "__main__":
    raise SystemExit(main())
