"""Thread of another process that this process traces and has stopped."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from slipway._util.errors import HostError
from slipway._util.libc import libc
from slipway.machine.fork import ptrace
from slipway.machine.fork.call_names import Call
from slipway.machine.fork.mishap import build_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.machine.fork.processor import Processor

# include/uapi/linux/prctl.h
_PR_GET_TID_ADDRESS = 40
# asm-generic/signal.h: stack_t is pointer, flags and size.
_STACK = struct.Struct("=QIIQ")
_SS_DISABLE = 2
_LARGEST_ERROR = 4095


@dataclass(frozen=True, slots=True)
class ThreadState:
    """State of a stopped thread, from which an equal thread of a fork is made.

    ``registers`` are by their notes. The addresses lie in the memory of the process: ``tid`` is
    where the thread's id is kept and cleared at its end, ``robust_list`` the list of its robust
    locks, ``signal_stack`` its alternate stack as a ``stack_t``; empty or 0 without one.
    """

    thread: int
    registers: tuple[tuple[int, bytes], ...]
    signal_mask: int
    rseq: ptrace.RseqConfiguration
    robust_list: tuple[int, int]
    tid: int
    signal_stack: bytes

    def get_general(self, processor: Processor) -> bytes:
        """Return the general registers."""
        return dict(self.registers)[processor.GENERAL]


class Tracee:
    """Stopped thread, in which system calls can be made.

    ``call_address`` is that of an instruction for system calls in its memory.
    """

    def __init__(
        self, thread: int, processor: Processor, registers: bytes, call_address: int
    ) -> None:
        self.thread = thread
        self._processor = processor
        self._registers = registers
        self._call_address = call_address

    def call(self, name: Call, *arguments: int) -> int:
        """Make a system call, and return its result.

        Raises:
            HostError, Mishap: the call has failed, or the thread ended.
        """
        result, _ = self._execute(name, arguments)
        return result

    def call_clone(self, *arguments: int) -> int:
        """Make clone(2), and return the id of the new process or thread, which is stopped.

        Raises:
            HostError, Mishap: the call has failed, or the thread ended.
        """
        result, new = self._execute(Call.CLONE, arguments)
        if new is None:
            raise HostError(f"clone made {result}, which is not traced")
        return new

    def _execute(self, name: Call, arguments: tuple[int, ...]) -> tuple[int, int | None]:
        processor = self._processor
        number = processor.NUMBERS[name]
        prepared = processor.prepare_call(self._registers, self._call_address, number, arguments)
        ptrace.write_registers(self.thread, processor.GENERAL, prepared)
        new = None
        ptrace.step(self.thread)
        while (event := ptrace.wait_stop(self.thread)) is not ptrace.Event.NONE:
            if event is ptrace.Event.STOP:
                raise HostError(f"the traced thread {self.thread} was stopped by another process")
            new = ptrace.read_event_message(self.thread)
            ptrace.wait_stop(new)
            ptrace.step(self.thread)
        registers = ptrace.read_registers(self.thread, processor.GENERAL)
        assert registers is not None
        result = processor.read_result(registers)
        if -_LARGEST_ERROR <= result < 0:
            raise build_failure(f"{name.name.lower()} in another process", -result)
        return result, new


def read_registers(thread: int, processor: Processor) -> tuple[tuple[int, bytes], ...]:
    """Return all sets of registers of a stopped thread, by their notes."""
    sets = ((note, ptrace.read_registers(thread, note)) for note in processor.NOTES)
    return tuple((note, content) for note, content in sets if content is not None)


def read_state(
    tracee: Tracee,
    registers: tuple[tuple[int, bytes], ...],
    memory: int,
    scratch: int,
    processor: Processor,
) -> ThreadState:
    """Return the state of a stopped thread, whose ``registers`` were read before any call in it.

    ``memory`` is the descriptor of its process's memory, ``scratch`` an address in it for results.
    """
    thread = tracee.thread
    mask, rseq = ptrace.read_signal_mask(thread), ptrace.read_rseq(thread)
    tracee.call(Call.PRCTL, _PR_GET_TID_ADDRESS, scratch)
    (tid,) = struct.unpack("=Q", os.pread(memory, 8, scratch))
    tracee.call(Call.SIGALTSTACK, 0, scratch)
    stack = os.pread(memory, _STACK.size, scratch)
    if _STACK.unpack(stack)[1] & _SS_DISABLE:
        stack = b""
    robust_list = _read_robust_list(thread, processor)
    return ThreadState(thread, registers, mask, rseq, robust_list, tid, stack)


def _read_robust_list(thread: int, processor: Processor) -> tuple[int, int]:
    """Return address and size of the head of a thread's robust locks."""
    head, size = ctypes.c_ulong(), ctypes.c_size_t()
    number = processor.NUMBERS[Call.GET_ROBUST_LIST]
    if libc.syscall(number, thread, ctypes.byref(head), ctypes.byref(size)):
        raise HostError(f"get_robust_list: {os.strerror(ctypes.get_errno())}")
    return head.value, size.value


def restore_state(tracee: Tracee, state: ThreadState, processor: Processor) -> None:
    """Give a new thread the registers and signals of ``state``; calls in it are over."""
    for note, content in state.registers:
        restored = processor.prepare_restart(content) if note == processor.GENERAL else content
        ptrace.write_registers(tracee.thread, note, restored)
    ptrace.write_signal_mask(tracee.thread, state.signal_mask)


def register_areas(tracee: Tracee, state: ThreadState, memory: int, scratch: int) -> None:
    """Tell the kernel of the areas in memory that a new thread has: locks and signal stack."""
    head, size = state.robust_list
    if head:
        tracee.call(Call.SET_ROBUST_LIST, head, size)
    if state.signal_stack:
        os.pwrite(memory, state.signal_stack, scratch)
        tracee.call(Call.SIGALTSTACK, scratch, 0)


def register_rseq(tracee: Tracee, state: ThreadState) -> None:
    """Register the area of restartable sequences; the first thread of a fork inherits its own."""
    rseq = state.rseq
    if rseq.address:
        tracee.call(Call.RSEQ, rseq.address, rseq.size, rseq.flags, rseq.signature)
