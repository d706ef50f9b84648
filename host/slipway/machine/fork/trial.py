"""Trial of a fork by ptrace(2): a process that starts a small program, forks it and ends both.

``python -c ... PARENT`` prints ``forked``, or the reason why this host does not let it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress

from slipway._util.errors import HostError
from slipway.jail import privileges
from slipway.machine.fork.mishap import Mishap
from slipway.machine.fork.original import Original
from slipway.machine.fork.program import start_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FORKED = "forked"
_KEY = 0x5EED
_LIMIT_SECONDS = 20
_WORDS_BYTES = 4096
_STDERR = 2
_PROGRAM = (
    "import socket, sys; calls = socket.socket(fileno=int(sys.argv[1]));"
    " calls.send(b'.');"
    " [calls.send(data) for data in iter(lambda: calls.recv(16), b'')]"
)


def main() -> NoReturn:
    """Print the outcome and end."""
    privileges.set_parent_death_signal(int(sys.argv[-1]))
    signal.alarm(_LIMIT_SECONDS)
    try:
        _fork_once()
        outcome = FORKED
    except (HostError, Mishap, OSError) as error:
        outcome = str(error)
    print(outcome, flush=True)
    os._exit(0)


def _fork_once() -> None:
    """Fork a small program, and have the fork answer.

    Raises:
        HostError, Mishap, OSError: this host does not let it.
    """
    with ExitStack() as closing:

        def make_pair() -> tuple[socket.socket, socket.socket]:
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            return closing.enter_context(one), closing.enter_context(other)

        (calls, calls_of_program), (door, door_of_program) = make_pair(), make_pair()
        words, words_of_program = make_pair()
        number, door_number = calls_of_program.fileno(), door_of_program.fileno()
        command = [sys.executable, "-IS", "-c", _PROGRAM, str(number)]
        errors = words_of_program.fileno()
        program = start_program(command, [number, door_number], errors, _KEY)
        closing.callback(_end, program)
        # The end of the program then ends the streams.
        calls_of_program.close()
        words_of_program.close()
        if not calls.recv(1):
            text = words.recv(_WORDS_BYTES).decode("utf-8", "replace")
            raise HostError(" ".join(text.split()) or "the program ended")
        original = Original(program, door, door_number, [number, _STDERR], _KEY)
        closing.callback(original.end)
        ours, theirs = make_pair()
        empty = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        closing.callback(_end, original.fork([theirs.fileno(), empty]))
        theirs.close()
        ours.send(b"hello")
        if ours.recv(16) != b"hello":
            raise HostError("a fork does not answer")


def _end(process: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
