"""The agent as an ordinary process, without a virtual machine and without root.

Its port is a socket, a workspace is a temporary directory, and a group of processes is all that
descend from the agent. Programs run as the user of the tests, or as a given user if that is root.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from slipway_agent import syscalls
from slipway_agent.agent import Agent
from slipway_agent.cgroup import Descendants
from slipway_agent.port import HostPort, PortClosedError
from slipway_agent.program_launcher import ProgramLauncher
from slipway_protocol import messages as m
from slipway_protocol.connection import Connection
from slipway_protocol.framing import BadFrame
from slipway_protocol.schema import MAX_DATA, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway_protocol.connection import Event

    Message = TypeVar("Message")

# Seconds of a wait for the agent. A loaded host is slow; only a test that fails waits so long.
PATIENCE = 30.0
DISK_BYTES = 64 * 1024 * 1024
ENTROPY_REFUSED = b"refuse"
MTU_REFUSED = 1


class DirectoryWorkspace:
    def __init__(self, parent: str, size: int, owner: int) -> None:
        self.directory = tempfile.mkdtemp(dir=parent)
        self.size = size or DISK_BYTES
        os.chown(self.directory, owner, owner)

    def resize(self, size: int) -> None:
        self.size = size

    def renew(self) -> None:
        Path(self.directory).chmod(0o755)

    def remove(self) -> None:
        shutil.rmtree(self.directory)


class PlainSystem:
    """Stand-in for slipway_agent.guest_system.GuestSystem."""

    def __init__(self, directory: str, user: int | None) -> None:
        self._directory = directory
        self._user = user

    def set_time_and_entropy(self, time_ns: int, entropy: bytes, *, clone: bool) -> None:
        if entropy == ENTROPY_REFUSED:
            raise PermissionError("the clock is not yours")

    def set_identity(self, *, clone: bool) -> None:
        """Do nothing: a process has the name of its host."""

    def describe(self) -> m.Ready:
        return m.Ready(VERSION, "test", ("plain",), "none", 1, 0, 1, 1)

    def connect(self, spec: m.Connect) -> m.Connected:
        if spec.mtu == MTU_REFUSED:
            raise OSError("no such MTU")
        return m.Connected(1, spec.mtu)

    def make_workspace(self, size: int) -> DirectoryWorkspace:
        return DirectoryWorkspace(self._directory, size, self.owner_id)

    def make_group(self, phase: m.Phase, limits: m.Limits) -> Descendants:
        return Descendants()

    def make_launcher(self, directory: str) -> ProgramLauncher:
        return ProgramLauncher(directory, self._user)

    @property
    def owner_id(self) -> int:
        return os.geteuid() if self._user is None else self._user


def main() -> None:
    fd, directory = int(sys.argv[1]), sys.argv[2]
    user = int(sys.argv[3]) if sys.argv[3:] else None
    syscalls.control_process(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(fd, False)
    with suppress(PortClosedError):
        Agent(PlainSystem(directory, user), HostPort(fd, "socket")).run()


class Host:
    """Host's end: sends messages and waits for answers, one at a time."""

    def __init__(self, directory: Path, user: int | None = None) -> None:
        """Start the agent; ``user`` is that of its programs, None the agent's own."""
        self.directory = directory
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(PATIENCE)
        self._connection = Connection.host()
        self._events: deque[Event] = deque()
        with theirs:
            arguments = [str(theirs.fileno()), str(directory)]
            if user is not None:
                arguments.append(str(user))
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.agent", *arguments],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[1],
            )

    def close(self) -> None:
        self._socket.close()
        self.process.wait(PATIENCE)

    def send(self, *messages: m.HostMessage) -> None:
        self._socket.sendall(b"".join(self._connection.send(message) for message in messages))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> m.AgentMessage:
        """Return the next message.

        Raises:
            EOFError: the agent has ended.
            AssertionError: no message came within the limit.
        """
        while not self._events:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"waited {PATIENCE:g} s for a message of the agent") from None
            if not data:
                raise EOFError
            self._events.extend(self._connection.receive(data))
        event = self._events.popleft()
        assert isinstance(event, m.AgentMessage), event
        assert not isinstance(event, BadFrame)
        return event

    def expect(self, kind: type[Message]) -> Message:
        message = self.receive()
        assert isinstance(message, kind), message
        return message

    def until(self, kind: type[Message]) -> tuple[list[m.AgentMessage], Message]:
        """Return the messages before the first of ``kind``, and that one."""
        before: list[m.AgentMessage] = []
        while not isinstance(message := self.receive(), kind):
            before.append(message)
        return before, message

    def start(self, job: m.Job, files: Iterable[tuple[str, bytes]] = ()) -> None:
        self.send(job)
        for path, data in files:
            self.send(m.File(job.job, path, 0o755, len(data)))
            for start in range(0, len(data), MAX_DATA):
                self.send(m.FileData(job.job, data[start : start + MAX_DATA]))
        self.send(m.Start(job.job))

    def run(self, job: m.Job, files: Iterable[tuple[str, bytes]] = ()) -> Story:
        """Run ``job`` to its end with credit for all that it prints."""
        self.start(job, files)
        story: list[m.AgentMessage] = []
        while not story or not isinstance(story[-1], m.JobDone):
            story.append(self.receive())
            if isinstance(story[-1], m.Output):
                output = story[-1]
                self.send(m.Credit(job.job, output.stream, len(output.data)))
        return Story(story)


class Story:
    """Messages of the agent about a job."""

    def __init__(self, messages: list[m.AgentMessage]) -> None:
        self.messages = messages

    def all(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.messages if isinstance(message, kind)]

    def one(self, kind: type[Message]) -> Message:
        (message,) = self.all(kind)
        return message

    def data(self, stream: m.Stream) -> bytes:
        return b"".join(o.data for o in self.all(m.Output) if o.stream is stream)

    @property
    def stdout(self) -> bytes:
        return self.data(m.Stream.STDOUT)

    @property
    def stderr(self) -> bytes:
        return self.data(m.Stream.STDERR)

    @property
    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.messages]


def python(source: str, *arguments: str, stdin: bool = False, **limits: Any) -> m.Command:
    """Return a command that runs ``source``, quickly."""
    return m.Command((sys.executable, "-ISBc", source, *arguments), (), m.Limits(**limits), stdin)


def job(
    run: m.Command,
    build: m.Command | None = None,
    outputs: Iterable[str] = (),
    window: int = 1 << 20,
    number: int = 1,
    *,
    keep: bool = False,
) -> m.Job:
    return m.Job(number, build, run, tuple(outputs), window, keep=keep)


if __name__ == "__main__":
    main()
