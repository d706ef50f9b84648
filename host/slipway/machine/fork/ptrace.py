"""ABI of ptrace(2): requests, options and stops; include/uapi/linux/ptrace.h and the man page.

The calls are for the thread that traces: the kernel refuses those of any other.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from enum import IntEnum, IntFlag

from slipway._util.errors import HostError
from slipway._util.libc import libc
from slipway.machine.fork.mishap import Mishap, build_failure

# waitpid(2): children of any kind, also threads. The module os has no name for the flag.
_WALL = 0x40000000
# An XSAVE area with AMX has 11 KiB; SVE with the longest vectors 17.
_MAX_REGISTERS = 64 * 1024
_SIGNAL_SET_BYTES = 8


class Request(IntEnum):
    """Requests that this module makes."""

    SINGLESTEP = 9
    DETACH = 17
    GETEVENTMSG = 0x4201
    GETREGSET = 0x4204
    SETREGSET = 0x4205
    SEIZE = 0x4206
    INTERRUPT = 0x4207
    GETSIGMASK = 0x420A
    SETSIGMASK = 0x420B
    GET_RSEQ_CONFIGURATION = 0x420F


class TraceOption(IntFlag):
    """Options of a traced thread, which its children inherit with their tracer."""

    TRACEFORK = 0x00000002
    TRACEVFORK = 0x00000004
    TRACECLONE = 0x00000008
    EXITKILL = 0x00100000


class Event(IntEnum):
    """Events that a stop reports, in bits 16 and up of its status."""

    NONE = 0
    FORK = 1
    VFORK = 2
    CLONE = 3
    STOP = 128


class _IoVector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class RseqConfiguration(ctypes.Structure):
    """struct ptrace_rseq_configuration: the area of restartable sequences of a thread."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


_ptrace = libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


def _request(request: Request, thread: int, address: int = 0, data: int = 0) -> None:
    """Make a request.

    Raises:
        HostError: the kernel refuses.
        Mishap: the thread has ended.
    """
    if _ptrace(request, thread, address, data) == -1:
        raise _build_error(request, ctypes.get_errno())


def _build_error(request: Request, number: int) -> Exception:
    words = f"ptrace {request.name}"
    if number == errno.EPERM:
        hint = "Set kernel.yama.ptrace_scope to 0 or 1, and allow ptrace in this container."
        return HostError(f"{words}: {os.strerror(number)}", hint)
    return build_failure(words, number)


def seize(thread: int, options: TraceOption) -> None:
    """Trace a thread, which continues to run."""
    _request(Request.SEIZE, thread, 0, options)


def interrupt(thread: int) -> None:
    """Stop a traced thread; :func:`wait_stop` follows."""
    _request(Request.INTERRUPT, thread)


def detach(thread: int) -> None:
    """Trace a stopped thread no more; it continues to run."""
    _request(Request.DETACH, thread)


def step(thread: int) -> None:
    """Let a stopped thread execute one instruction; :func:`wait_stop` follows."""
    _request(Request.SINGLESTEP, thread)


def read_event_message(thread: int) -> int:
    """Return the number of a stop's event: the id of the new process or thread."""
    message = ctypes.c_ulong()
    _request(Request.GETEVENTMSG, thread, 0, ctypes.addressof(message))
    return message.value


def read_registers(thread: int, note: int) -> bytes | None:
    """Return a set of registers (NT_*, include/uapi/linux/elf.h); None if the CPU has none."""
    buffer = ctypes.create_string_buffer(_MAX_REGISTERS)
    vector = _IoVector(ctypes.addressof(buffer), _MAX_REGISTERS)
    try:
        _request(Request.GETREGSET, thread, note, ctypes.addressof(vector))
    except HostError:
        if ctypes.get_errno() in (errno.EINVAL, errno.ENODEV, errno.EIO):
            return None
        raise
    return buffer.raw[: vector.length]


def write_registers(thread: int, note: int, registers: bytes) -> None:
    """Write a set of registers."""
    buffer = ctypes.create_string_buffer(registers, len(registers))
    vector = _IoVector(ctypes.addressof(buffer), len(registers))
    _request(Request.SETREGSET, thread, note, ctypes.addressof(vector))


def read_signal_mask(thread: int) -> int:
    """Return the blocked signals, bit 0 for signal 1."""
    mask = ctypes.c_uint64()
    _request(Request.GETSIGMASK, thread, _SIGNAL_SET_BYTES, ctypes.addressof(mask))
    return mask.value


def write_signal_mask(thread: int, mask: int) -> None:
    """Set the blocked signals."""
    value = ctypes.c_uint64(mask)
    _request(Request.SETSIGMASK, thread, _SIGNAL_SET_BYTES, ctypes.addressof(value))


def read_rseq(thread: int) -> RseqConfiguration:
    """Return the area of restartable sequences; its address is 0 without one (Linux 5.13)."""
    found = RseqConfiguration()
    size = ctypes.sizeof(found)
    if _ptrace(Request.GET_RSEQ_CONFIGURATION, thread, size, ctypes.addressof(found)) == -1:
        raise _build_error(Request.GET_RSEQ_CONFIGURATION, ctypes.get_errno())
    return found


def wait_stop(thread: int) -> Event:
    """Wait until a traced thread has stopped, and return the event of the stop.

    Raises:
        HostError: a signal has come in between.
        Mishap: the thread has ended.
    """
    try:
        _, status = os.waitpid(thread, _WALL)
    except ChildProcessError:
        raise Mishap(f"the traced thread {thread} has ended") from None
    if not os.WIFSTOPPED(status):
        raise Mishap(f"the traced thread {thread} has ended")
    number = os.WSTOPSIG(status)
    event = status >> 16
    if event not in list(Event) or (event == Event.NONE and number != signal.SIGTRAP):
        raise HostError(f"the traced thread {thread} has stopped for signal {number}")
    return Event(event)


def reap(thread: int) -> int | None:
    """Return the exit status of a thread or child that has ended, negative for a signal.

    None while it has not ended, and if it was reaped before.
    """
    try:
        found, status = os.waitpid(thread, _WALL | os.WNOHANG)
    except ChildProcessError:
        return None
    if not found or os.WIFSTOPPED(status):
        return None
    return os.waitstatus_to_exitcode(status)


def wait_end(thread: int) -> None:
    """Wait for the end of a thread that was killed; stops on the way are ignored."""
    while True:
        try:
            _, status = os.waitpid(thread, _WALL)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            return
