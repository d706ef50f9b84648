"""Small program with threads, started by a zygote, and its forks: without QEMU, in milliseconds.

The program answers each number on its socket by its process id, the count of its answers, and
twice the number. A thread computes that and wakes the first by an eventfd; a second one may wait
by an epoll file.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING

from slipway.machine.module_command import build_module_command
from slipway.vmm.process import control

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

# Seconds; a loaded host is slow, and only a test that fails waits so long.
LIMIT = 60.0

PROGRAM = dedent("""
    import os, select, socket, sys, threading

    calls = socket.socket(fileno=int(sys.argv[1]))
    done, woken, results, numbers = os.eventfd(0), os.eventfd(0), [], []
    poll = select.epoll()
    poll.register(woken, select.EPOLLIN)
    exec(sys.argv[2])

    def compute():
        while True:
            poll.poll()
            os.eventfd_read(woken)
            results.append(2 * numbers.pop())
            os.eventfd_write(done, 1)

    condition = threading.Condition()
    def wait():
        with condition:
            condition.wait()

    for target in (compute, wait, wait):
        threading.Thread(target=target, daemon=True).start()
    count = 0
    while data := calls.recv(100):
        count += 1
        numbers.append(int(data))
        os.eventfd_write(woken, 1)
        os.eventfd_read(done)
        calls.send(f"{os.getpid()} {count} {results[-1]}".encode())
    """)


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """Program or fork: its process id, a pidfd, and our end of its socket."""

    process: int
    pidfd: int
    calls: socket.socket

    def ask(self, number: int) -> tuple[int, int, int]:
        """Return process id, count and twice ``number``, as the program answers."""
        self.calls.settimeout(LIMIT)
        self.calls.send(str(number).encode())
        process, count, result = map(int, self.calls.recv(100).split())
        return process, count, result

    def close(self) -> None:
        """Close our descriptors; the program ends for lack of a caller."""
        os.close(self.pidfd)
        self.calls.close()


class ZygoteRig:
    """Zygote with a program, as a context manager; at its end nothing of both may be left."""

    def __init__(self, preparation: str = "") -> None:
        """``preparation`` is code that the program executes before its threads start."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel, other = control.create_pair()
        self.channel.settimeout(LIMIT)
        self._number = theirs.fileno()
        with theirs, other, open(os.devnull, "wb") as errors:  # noqa: PTH123
            numbers = (other.fileno(), errors.fileno())
            command = build_module_command("slipway.machine.fork.zygote", numbers)
            program = [sys.executable, "-c", PROGRAM, str(self._number), preparation]
            self.zygote = subprocess.Popen(
                [*command, str(self._number), *program],
                pass_fds=(*numbers, self._number),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self.program = self._adopt(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.zygote.kill()
        self.zygote.wait()
        self.program.close()

    def receive(self) -> tuple[str, dict[str, str], list[int]]:
        """Return the zygote's next message, and its descriptors."""
        message, descriptors, _, _ = socket.recv_fds(self.channel, control.MAX_MESSAGE, 1)
        return *control.decode(message), descriptors

    def freeze(self) -> tuple[str, dict[str, str]]:
        """Have the program stopped for good; return the answer."""
        self.channel.send(control.encode(control.FREEZE, files=f"{self._number},2"))
        verb, texts, _ = self.receive()
        return verb, texts

    def fork(self) -> RunningProgram:
        """Return a fork of the frozen program."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(os.devnull, "wb") as errors:  # noqa: PTH123
            self.request([theirs.fileno(), errors.fileno()])
        return self._adopt(ours)

    def request(self, descriptors: Sequence[int]) -> None:
        """Request a fork."""
        socket.send_fds(self.channel, [control.encode(control.SPAWN)], list(descriptors))

    def _adopt(self, calls: socket.socket) -> RunningProgram:
        verb, texts, descriptors = self.receive()
        assert verb == control.SPAWNED, texts
        return RunningProgram(int(texts["process"]), descriptors[0], calls)
