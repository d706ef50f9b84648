"""Whether this host's KVM is of use: it may exist, open, and still interpret every instruction.

The second question is answered by timing a guest of four instructions. On hardware one turn of its
loop takes a few nanoseconds; where KVM emulates kernel mode it takes over 500, and a Linux would
not boot.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import time
from contextlib import ExitStack

from slipway.vmm.kvm import abi

TURNS = 10_000
SLOW_NANOSECONDS = 100
_CODE_ADDRESS = 0x1000
_MEMORY_SIZE = 0x2000
# 16-bit real mode: mov ecx, TURNS; again: dec ecx; jnz again; hlt
_CODE = b"\x66\xb9" + TURNS.to_bytes(4, "little") + b"\x66\x49\x75\xfc\xf4"


def examine() -> tuple[bool, str]:
    """Whether KVM is usable, and the reason in a few words."""
    try:
        nanoseconds = time_guest_loop()
    except OSError as error:
        return False, _explain(error)
    if nanoseconds > SLOW_NANOSECONDS:
        return False, f"interprets guest code ({nanoseconds:.0f} ns a loop turn): not usable"
    return True, f"usable ({nanoseconds:.1f} ns a loop turn)"


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"no {abi.DEVICE}: no virtualisation here, or the kvm module is not loaded"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{abi.DEVICE} may not be opened: join its group (usermod -aG kvm $USER)"
    return f"{abi.DEVICE} does not work: {error.strerror or error}"


def time_guest_loop() -> float:
    """Nanoseconds that one turn of a guest's loop takes.

    Raises:
        OSError: KVM is not there, not permitted, or refuses this guest.
    """
    with ExitStack() as cleanup:

        def own(fd: int) -> int:
            cleanup.callback(os.close, fd)
            return fd

        kvm = own(os.open(abi.DEVICE, os.O_RDWR | os.O_CLOEXEC))
        if fcntl.ioctl(kvm, abi.KVM_GET_API_VERSION, 0) != abi.API_VERSION:
            raise OSError(errno.ENOSYS, "KVM has another API version")
        vm = own(fcntl.ioctl(kvm, abi.KVM_CREATE_VM, 0))
        memory = mmap.mmap(-1, _MEMORY_SIZE)
        cleanup.callback(memory.close)
        memory[_CODE_ADDRESS : _CODE_ADDRESS + len(_CODE)] = _CODE
        view = (ctypes.c_char * _MEMORY_SIZE).from_buffer(memory)
        # The view keeps the mapping from being closed; callbacks run last in, first out.
        views = [view]
        cleanup.callback(views.clear)
        region = abi.MEMORY_REGION.pack(0, 0, 0, _MEMORY_SIZE, ctypes.addressof(view))
        del view
        fcntl.ioctl(vm, abi.KVM_SET_USER_MEMORY_REGION, region)
        vcpu = own(fcntl.ioctl(vm, abi.KVM_CREATE_VCPU, 0))
        size = fcntl.ioctl(kvm, abi.KVM_GET_VCPU_MMAP_SIZE, 0)
        run = cleanup.enter_context(mmap.mmap(vcpu, size))

        sregs = bytearray(abi.SREGS_SIZE)
        fcntl.ioctl(vcpu, abi.KVM_GET_SREGS, sregs)
        abi.SEGMENT_BASE.pack_into(sregs, 0, 0, 0xFFFF, 0)
        fcntl.ioctl(vcpu, abi.KVM_SET_SREGS, sregs)
        registers = [0] * 16 + [_CODE_ADDRESS, abi.RFLAGS_RESERVED]
        fcntl.ioctl(vcpu, abi.KVM_SET_REGS, abi.REGS.pack(*registers))

        began = time.perf_counter_ns()
        fcntl.ioctl(vcpu, abi.KVM_RUN, 0)
        elapsed = time.perf_counter_ns() - began
        (reason,) = abi.EXIT_REASON.unpack_from(run, abi.EXIT_REASON_OFFSET)
        if reason != abi.ExitReason.HLT:
            raise OSError(errno.EIO, f"a trivial guest ended with exit reason {reason}")
    return elapsed / TURNS
