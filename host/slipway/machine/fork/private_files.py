"""Descriptors of a fork: which ones it may share with the original, and new ones for the others.

A fork inherits descriptors of the same open files. What is written to an eventfd would wake either
process, and the mask of a signalfd and the set of an epoll file would change for both.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from pathlib import Path

from slipway._util.errors import HostError
from slipway.machine.fork.call_names import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from slipway.machine.fork.proc_files import OpenFile
    from slipway.machine.fork.tracee import Tracee

_EVENTFD, _SIGNALFD = "anon_inode:[eventfd]", "anon_inode:[signalfd]"
_EPOLL = "anon_inode:[eventpoll]"
_KINDS = frozenset({_EVENTFD, _SIGNALFD, _EPOLL})
_EFD_SEMAPHORE = 1  # include/uapi/linux/eventfd.h
_EPOLL_CTL_ADD = 1
# struct epoll_event, which x86-64 packs; include/uapi/linux/eventpoll.h
_PACKED_EVENT, _EVENT = struct.Struct("=IQ"), struct.Struct("=I4xQ")
_OPTIONS = os.O_NONBLOCK | os.O_CLOEXEC
_SIGNAL_SET_BYTES = 8


def check_files(process: int, files: list[OpenFile], replaced: Container[int]) -> None:
    """Check that each descriptor is private in a fork, harmless if shared, or ``replaced``.

    Raises:
        HostError: a fork and the original would disturb each other by a descriptor.
    """
    for file in files:
        if file.number in replaced or file.target in _KINDS or _is_harmless(process, file):
            continue
        raise HostError(f"a fork would share the descriptor {file.number} ({file.target:.80})")


def _is_harmless(process: int, file: OpenFile) -> bool:
    """Tell if a file has no state that one of its users could change for the other."""
    path = Path(f"/proc/{process}/fd/{file.number}")
    try:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode):
            return path.stat().st_rdev == Path(os.devnull).stat().st_rdev
        if not stat.S_ISREG(mode):
            return False
        if file.flags & os.O_ACCMODE == os.O_RDONLY:
            return True
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def renew_files(fork: Tracee, files: list[OpenFile], memory: int, scratch: int) -> None:
    """Replace the descriptors of a new fork that have a state; epoll files come last.

    ``memory`` is the descriptor of its memory, ``scratch`` an address in it.

    Raises:
        HostError: a call has failed.
    """
    for file in files:
        if file.target == _EVENTFD:
            count = int(file.find("eventfd-count") or "0", 16)
            semaphore = _EFD_SEMAPHORE if file.find("eventfd-semaphore") == "1" else 0
            made = fork.call(Call.EVENTFD2, count, file.flags & _OPTIONS | semaphore)
            replace_file(fork, made, file)
        elif file.target == _SIGNALFD:
            mask = int(file.find("sigmask") or "0", 16)
            os.pwrite(memory, struct.pack("=Q", mask), scratch)
            options = file.flags & _OPTIONS
            made = fork.call(Call.SIGNALFD4, -1, scratch, _SIGNAL_SET_BYTES, options)
            replace_file(fork, made, file)
    for file in files:
        if file.target == _EPOLL:
            replace_file(fork, fork.call(Call.EPOLL_CREATE1, file.flags & os.O_CLOEXEC), file)
            _add_targets(fork, file, memory, scratch)


def replace_file(fork: Tracee, made: int, file: OpenFile) -> None:
    """Give the new descriptor ``made`` the number of ``file``."""
    fork.call(Call.DUP3, made, file.number, file.flags & os.O_CLOEXEC)
    fork.call(Call.CLOSE, made)


def _add_targets(fork: Tracee, file: OpenFile, memory: int, scratch: int) -> None:
    """Add the targets of an epoll file to its replacement: lines ``tfd: 5 events: 19 data: 5``."""
    layout = _PACKED_EVENT if os.uname().machine == "x86_64" else _EVENT
    for name, value in file.fields:
        if name != "tfd":
            continue
        words = value.replace(":", " ").split()
        facts = dict(zip(words[1::2], words[2::2], strict=False))
        os.pwrite(memory, layout.pack(int(facts["events"], 16), int(facts["data"], 16)), scratch)
        fork.call(Call.EPOLL_CTL, file.number, _EPOLL_CTL_ADD, int(words[0]), scratch)
