"""Start of the program that will be forked: bound to its parent, and filtered."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from slipway._util.libc import libc
from slipway.jail import call_filter, privileges
from slipway.machine.fork import spawn_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_NOT_STARTED = 127


def start_program(command: Sequence[str], inherited: Sequence[int], errors: int, key: int) -> int:
    """Start ``command`` in a session of its own, and return its process id.

    It inherits ``inherited``; its stderr is ``errors``, and its other streams are empty. It dies
    with this process, leaves no core file, and can start a process only with ``key``. An error of
    the start is text in ``errors``.

    Raises:
        OSError: the host has no room for a process.
    """
    parent = os.getpid()
    process = os.fork()
    if process:
        return process
    try:
        _run_program(command, inherited, errors, key, parent)
    except BaseException as error:  # a child never returns
        os.write(errors, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _run_program(
    command: Sequence[str], inherited: Sequence[int], errors: int, key: int, parent: int
) -> NoReturn:
    privileges.set_parent_death_signal(parent)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for one in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGALRM):
        signal.signal(one, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    empty = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream, source in enumerate((empty, empty, errors)):
        os.dup2(source, stream)
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)
    machine = os.uname().machine
    path, arguments = command[0].encode(), _build_strings(command)
    variables = _build_strings([f"{name}={value}" for name, value in os.environ.items()])
    call_filter.install(spawn_filter.build_filter(machine, key), command[0])
    number = spawn_filter.EXECVE[machine]
    zero = ctypes.c_long(0)
    libc.syscall(ctypes.c_long(number), path, arguments, variables, zero, zero, ctypes.c_ulong(key))
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _build_strings(strings: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    """Return an array of C strings that ends with NULL."""
    encoded = [os.fsencode(string) for string in strings]
    return (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)
