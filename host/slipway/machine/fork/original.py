"""Original: a stopped process, of which forks with all threads are made.

A fork by the kernel has only the thread that called. Here another process, the tracer, makes the
original call clone(2), then makes the new process start a thread for each other thread of the
original, and gives these threads the saved registers. As in CRIU (criu.org), system calls are made
in the process by ptrace(2); nothing of its program takes part.

A new process belongs to the tracer from its first instruction: the kernel kills it if the tracer
dies, and after that it dies with its parent, which is that of the original.
"""

from __future__ import annotations

import _socket
import os
import signal
import struct
import time
from contextlib import ExitStack, suppress

from slipway._util.errors import HostError
from slipway.jail import privileges
from slipway.machine.fork import proc_files, ptrace
from slipway.machine.fork.call_names import Call
from slipway.machine.fork.mishap import Mishap, build_failure
from slipway.machine.fork.private_files import check_files, renew_files, replace_file
from slipway.machine.fork.processor import find_processor
from slipway.machine.fork.tracee import (
    Tracee,
    read_registers,
    read_state,
    register_areas,
    register_rseq,
    restore_state,
)
from slipway.vmm.process import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.machine.fork.processor import Processor
    from slipway.machine.fork.tracee import ThreadState

# A thread that has work becomes quiet after it; the limit is that of a busy host.
QUIET_SECONDS = 5.0
_PAUSE_SECONDS = 0.005
_MAX_THREADS = 64
# include/uapi/linux/sched.h
_CLONE_PARENT = 0x00008000
_CLONE_CHILD_SETTID = 0x01000000
_CLONE_CHILD_CLEARTID = 0x00200000
_FORK_FLAGS = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | signal.SIGCHLD
# CLONE_VM, FS, FILES, SIGHAND, THREAD and SYSVSEM
_THREAD_FLAGS = 0x00050F00 | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
# include/uapi/asm-generic/mman-common.h: PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
_READ_WRITE, _PRIVATE = 3, 0x22
_MADV_DOFORK = 11
_PAGE = 4096
# struct msghdr of recvmsg(2): name and its length, vectors and their number, control and its length
_MESSAGE = struct.Struct("=QI4xQQQQi4x")
_VECTOR = struct.Struct("=QQ")
_HEADER = struct.Struct("=Qii")  # struct cmsghdr: length, level, type
_AT_VECTOR, _AT_BYTE, _AT_CONTROL = 64, 96, 128
_OPTIONS = (
    ptrace.TraceOption.TRACEFORK
    | ptrace.TraceOption.TRACEVFORK
    | ptrace.TraceOption.TRACECLONE
    | ptrace.TraceOption.EXITKILL
)


class Original:
    """Stopped process and the states of its threads.

    It stays stopped: :meth:`end` kills it. All calls are for one thread of this process, the
    tracer, which has to be the parent.
    """

    def __init__(
        self,
        process: int,
        door: _socket.socket,
        door_number: int,
        replaced: Sequence[int],
        key: int,
    ) -> None:
        """Stop ``process``, a child of this process, when all its threads wait.

        ``replaced`` are descriptors of the process that each fork gets new ones for. They come
        through ``door``, whose other end is the descriptor ``door_number`` of the process; the
        caller keeps the door. ``key`` allows the process to fork: its filter of system calls
        compares the last argument.

        Raises:
            HostError: the process cannot be traced, or has state that a fork cannot have. It has
                to be killed then.
            Mishap: the process does not come to rest, or has ended; the same holds.
        """
        self.process = process
        self._door = door
        self._door_number = door_number
        self._key = key
        self._processor: Processor = find_processor()
        self._memory = -1
        self._states: list[ThreadState] = []
        self._threads = _stop_quiet(process, self._processor)
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._memory = _open_memory(process)
            self._read_states()
            files = proc_files.read_open_files(process)
            check_files(process, files, {*replaced, door_number})
            numbers = {file.number: file for file in files}
            if missing := [number for number in (*replaced, door_number) if number not in numbers]:
                raise HostError(f"the process has no descriptor {missing[0]}")
            self._files = [file for file in files if file.number not in replaced]
            self._replaced = [numbers[number] for number in replaced]
            self._check_rest()
            self._copy_all_memory()
            on_failure.pop_all()

    def _read_states(self) -> None:
        processor = self._processor
        saved = [read_registers(thread, processor) for thread in self._threads]
        first = dict(saved[0])[processor.GENERAL]
        self._call_address = processor.get_call_address(first)
        self._main = Tracee(self.process, processor, first, self._call_address)
        self._scratch = self._main.call(Call.MMAP, 0, _PAGE, _READ_WRITE, _PRIVATE, -1, 0)
        for thread, registers in zip(self._threads, saved, strict=True):
            general = dict(registers)[processor.GENERAL]
            tracee = Tracee(thread, processor, general, self._call_address)
            self._states.append(
                read_state(tracee, registers, self._memory, self._scratch, processor)
            )

    def _check_rest(self) -> None:
        """Check that the process has nothing that a fork cannot have.

        Raises:
            HostError: it has.
        """
        if proc_files.has_timers(self.process):
            raise HostError("a fork would not have the timers of the process")
        for thread in self._threads:
            if proc_files.has_pending_signals(self.process, thread):
                raise HostError("a fork would not have the pending signals of the process")

    def _copy_all_memory(self) -> None:
        """Let forks have the memory that a child would not have, and check that none is shared.

        Raises:
            HostError: a fork would write to memory of the process.
        """
        for area in proc_files.read_areas(self.process):
            if area.is_shared:
                raise HostError("a fork would share memory with the process")
            if area.is_kept_from_children:
                size = area.end - area.start
                self._main.call(Call.MADVISE, area.start, size, _MADV_DOFORK)

    def fork(self, given: Sequence[int]) -> int:
        """Return the id of a new process, a child of this one, that continues where this stopped.

        Copies of ``given`` take the places of the replaced descriptors, in their order; their files
        get the mode (blocking or not) that the original's have.

        Raises:
            HostError, Mishap, OSError: a step has failed; nothing is left of the new process.
        """
        for file, descriptor in zip(self._replaced, given, strict=True):
            os.set_blocking(descriptor, not file.flags & os.O_NONBLOCK)
        main = self._states[0]
        arguments = (_FORK_FLAGS, 0, 0, main.tid, main.tid, self._key)
        process = self._main.call_clone(*arguments)
        threads = [process]
        with ExitStack() as on_failure:
            on_failure.callback(_kill, process, threads)
            self._finish_fork(process, threads, given)
            on_failure.pop_all()
        return process

    def _finish_fork(self, process: int, threads: list[int], given: Sequence[int]) -> None:
        processor = self._processor
        leader = self._build_tracee(process, self._states[0])
        with ExitStack() as closing:
            memory = _open_memory(process)
            closing.callback(os.close, memory)
            leader.call(Call.PRCTL, privileges.PR_SET_PDEATHSIG, signal.SIGKILL)
            self._replace_files(leader, memory, given)
            renew_files(leader, self._files, memory, self._scratch)
            register_areas(leader, self._states[0], memory, self._scratch)
            pairs = [(leader, self._states[0])]
            for state in self._states[1:]:
                new = leader.call_clone(_THREAD_FLAGS, 0, 0, state.tid, state.tid)
                threads.append(new)
                thread = self._build_tracee(new, state)
                register_areas(thread, state, memory, self._scratch)
                register_rseq(thread, state)
                pairs.append((thread, state))
        for thread, state in pairs:
            restore_state(thread, state, processor)
        for new in reversed(threads):
            ptrace.detach(new)

    def _build_tracee(self, thread: int, state: ThreadState) -> Tracee:
        general = state.get_general(self._processor)
        return Tracee(thread, self._processor, general, self._call_address)

    def _replace_files(self, leader: Tracee, memory: int, given: Sequence[int]) -> None:
        """Send the descriptors ``given`` through the door, and close the fork's end of it."""
        descriptors.send(self._door, b".", given)
        at = self._scratch
        room = _HEADER.size + 4 * len(given)
        control = at + _AT_CONTROL
        message = _MESSAGE.pack(0, 0, at + _AT_VECTOR, 1, control, -(-room // 8) * 8, 0)
        os.pwrite(memory, message, at)
        os.pwrite(memory, _VECTOR.pack(at + _AT_BYTE, 1), at + _AT_VECTOR)
        options = _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
        leader.call(Call.RECVMSG, self._door_number, at, options)
        length, level, kind = _HEADER.unpack(os.pread(memory, _HEADER.size, control))
        if (length, level, kind) != (room, _socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            raise HostError("a fork has too many descriptors")
        received = struct.unpack(
            f"={len(given)}i", os.pread(memory, 4 * len(given), control + _HEADER.size)
        )
        for made, file in zip(received, self._replaced, strict=True):
            replace_file(leader, made, file)
        leader.call(Call.CLOSE, self._door_number)

    def reap_threads(self) -> None:
        """Reap threads of the original that have ended: without that, the process does not end."""
        for thread in self._threads[1:]:
            ptrace.reap(thread)

    def end(self) -> None:
        """Kill the original, if it still runs, and wait for its end. Forks continue."""
        self.close()
        _kill(self.process, self._threads)

    def close(self) -> None:
        """Close the memory of the process. May be called again."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


def _kill(process: int, threads: list[int]) -> None:
    """Kill a child and wait for its end; the ends of its traced threads come first."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    for thread in reversed(threads):
        ptrace.wait_end(thread)


def _open_memory(process: int) -> int:
    """Return the descriptor of a traced process's memory.

    Raises:
        HostError: the process may not be inspected.
        Mishap: the process has ended, or this one has too many descriptors.
    """
    try:
        return os.open(f"/proc/{process}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise build_failure("the memory of a process cannot be opened", error.errno) from None


def _stop_quiet(process: int, processor: Processor) -> list[int]:
    """Stop a process at a moment when each thread waits in a system call; return all threads.

    In such a moment no thread holds a lock for long, and no result of a call is under way.

    Raises:
        HostError: the process cannot be traced.
        Mishap: the process does not come to rest, or has ended.
    """
    deadline = time.monotonic() + QUIET_SECONDS
    while True:
        threads = _stop_all(process)
        if _is_quiet(process, threads, processor):
            return threads
        for thread in reversed(threads):
            ptrace.detach(thread)
        if time.monotonic() > deadline:
            raise Mishap(f"the process did not come to rest within {QUIET_SECONDS:g} s")
        time.sleep(_PAUSE_SECONDS)


def _stop_all(process: int) -> list[int]:
    """Trace and stop all threads, also those that start meanwhile; return their ids."""
    stopped: list[int] = []
    while new := [one for one in proc_files.list_threads(process) if one not in stopped]:
        for thread in new:
            if len(stopped) == _MAX_THREADS:
                raise HostError(f"the process has more than {_MAX_THREADS} threads")
            # A thread that a traced one has started is traced already.
            if proc_files.find_tracer(process, thread) != os.getpid():
                _seize(process, thread)
            ptrace.interrupt(thread)
            if ptrace.wait_stop(thread) is not ptrace.Event.STOP:
                raise HostError("the process starts threads or processes")
            stopped.append(thread)
    return stopped


def _seize(process: int, thread: int) -> None:
    try:
        ptrace.seize(thread, _OPTIONS)
    except HostError:
        if proc_files.find_tracer(process, thread) != os.getpid():  # since the question
            raise


def _is_quiet(process: int, threads: list[int], processor: Processor) -> bool:
    """Tell if each thread was stopped in a call that waits."""
    memory = _open_memory(process)
    try:
        for thread in threads:
            registers = ptrace.read_registers(thread, processor.GENERAL)
            assert registers is not None
            if processor.find_interrupted_call(registers) not in processor.WAITING:
                return False
            address = processor.get_call_address(registers)
            instruction = processor.CALL_INSTRUCTION
            if os.pread(memory, len(instruction), address) != instruction:
                return False
    finally:
        os.close(memory)
    return True
