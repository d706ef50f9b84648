"""Zygote of the qemu machine, ``python -c ... PARENT CONTROL ERRORS INHERITED COMMAND...``.

The arguments are the parent's process id, the control channel, the program's stderr, the other
descriptors that the program inherits (numbers with commas), and the command of the program. The
zygote starts it, and on request (``freeze``) stops it for good; from then on it makes forks of it
(``spawn``). Program and forks are children of the zygote: they die with it, and it reports their
ends.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import os
import signal
import struct
import sys
from contextlib import closing, contextmanager, suppress

from slipway._util.errors import HostError
from slipway._util.libc import libc
from slipway.jail import privileges
from slipway.machine.fork.mishap import Lateness, Mishap, build_failure
from slipway.machine.fork.original import Original
from slipway.machine.fork.program import start_program
from slipway.vmm.process import control, descriptors
from slipway.vmm.process.control import send_message
from slipway.vmm.process.zygote_children import ZygoteChildren

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

# A fork takes milliseconds, of a host under load a second.
STEP_SECONDS = 20.0
_KEY_BYTES = 8
_LIBC_SET_BYTES = 128  # sigset_t of libc
_SIGNALS_BYTES = 16 * 128  # struct signalfd_siginfo


def main() -> NoReturn:
    """Start the program, make forks on request, and wait for the ends of all."""
    parent, channel, errors, inherited, *command = sys.argv[2:]
    privileges.set_parent_death_signal(int(parent))
    numbers = [int(number) for number in inherited.split(",")]
    try:
        status = ForkZygote(int(channel)).run(command, numbers, int(errors))
    except HostError as error:
        send_message(int(channel), control.FAILED, message=error.message, hint=error.hint)
        status = 1
    os._exit(status)


class ForkZygote:
    """Zygote; it never has a thread: ptrace is bound to the thread that traces."""

    def __init__(self, channel: int) -> None:
        """Take over the control channel."""
        os.set_inheritable(channel, False)
        self._channel = _socket.socket(fileno=channel)
        self._children = ZygoteChildren(self._channel)
        self._key = int.from_bytes(os.urandom(_KEY_BYTES), "little")
        self._program = 0
        self._original: Original | None = None
        self._count = 0
        self._closing = False
        self._door, self._program_door = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self._door_number = self._program_door.fileno()
        # The end of a traced thread makes no pidfd readable, but sends a signal.
        self._signals = _open_child_signals()
        signal.signal(signal.SIGALRM, _raise_timeout)

    def run(self, command: list[str], inherited: list[int], errors: int) -> int:
        """Run until the parent wants no more forks and all have ended; return the exit status.

        Raises:
            HostError: the program cannot be started.
        """
        os.set_inheritable(errors, False)
        kept = [*inherited, self._door_number]
        try:
            with closing(self._program_door):
                self._program = start_program(command, kept, errors, self._key)
            self._children.adopt(self._program, self._forget_original)
        except OSError as error:
            raise HostError(f"cannot start {command[0]}: {error.strerror}") from None
        for descriptor in {*inherited, errors}:
            os.close(descriptor)
        self._children.watch(self._channel.fileno(), self._handle_request)
        self._children.watch(self._signals, self._reap_threads)
        while self._children.wait_events() or not self._closing:
            pass
        return 0

    def _handle_request(self) -> None:
        counts = range(self._count, self._count + 1)
        try:
            message, given = descriptors.receive(self._channel, control.MAX_MESSAGE, counts)
        except OSError:
            os._exit(1)  # the parent has ended
        verb, texts = control.decode(message)
        try:
            with _time_limit():
                if verb == control.FREEZE:
                    self._freeze([int(number) for number in texts["files"].split(",")])
                elif verb == control.SPAWN:
                    self._clone(given)
        except HostError as error:
            self._report(control.FAILED, error.message, error.hint)
        except OSError as error:
            self._report(control.REFUSED, f"a clone cannot be started: {error.strerror}")
        except Mishap as error:
            self._report(control.REFUSED, str(error))
            if isinstance(error, Lateness):
                self._end_program()
        finally:
            for descriptor in given:
                os.close(descriptor)
        if verb == control.CLOSE:
            self._closing = True
            self._end_program()
        elif not message:
            os._exit(1)

    def _report(self, verb: str, message: str, hint: str = "") -> None:
        """Answer a request: ``failed`` if each further one would fail as well, else ``refused``."""
        send_message(self._channel.fileno(), verb, message=message, hint=hint)

    def _freeze(self, replaced: list[int]) -> None:
        self._original = Original(self._program, self._door, self._door_number, replaced, self._key)
        self._count = len(replaced)
        send_message(self._channel.fileno(), control.RUNNING)

    def _clone(self, given: list[int]) -> None:
        if self._original is None:
            raise Mishap("the stopped program has ended")
        if not given:
            raise build_failure("a clone cannot be started", errno.EMFILE)
        self._children.adopt(self._original.fork(given))

    def _end_program(self) -> None:
        if self._program in self._children:
            os.kill(self._program, signal.SIGKILL)

    def _reap_threads(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._signals, _SIGNALS_BYTES)
        if self._original is not None:
            self._original.reap_threads()

    def _forget_original(self) -> None:
        if self._original is not None:
            self._original.close()
            self._original = None


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise an error in this process if a step takes too long."""
    signal.setitimer(signal.ITIMER_REAL, STEP_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise_timeout(_number: int, _frame: object) -> None:
    raise Lateness(f"a clone was not made within {STEP_SECONDS:g} s")


def _open_child_signals() -> int:
    """Block SIGCHLD, and return the descriptor of a signalfd for it.

    Each stop of a traced thread sends the signal, and a handler would cost more than the stop.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    mask = struct.pack("=Q", 1 << signal.SIGCHLD - 1).ljust(_LIBC_SET_BYTES, b"\0")
    found = libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC)
    if found < 0:
        raise HostError(f"signalfd: {os.strerror(ctypes.get_errno())}")
    return int(found)
