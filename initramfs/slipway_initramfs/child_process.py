"""Child processes of a build: programs of this machine with limits on time, never left behind."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import selectors
import signal
import subprocess
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

# Seconds without progress after which a program is ended.
#
# Longer than apt itself waits for a silent mirror: 30 seconds, three times.
QUIET = 150.0
# Bytes kept of each stream, the last ones.
MAX_OUTPUT = 8 << 20

_TICK = 0.25
_GRACE = 2.0
# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# Loaded at import: between fork and exec, where prctl is called, no lock may be taken.
_libc = ctypes.CDLL(None)


class Hung(Exception):
    """A program took too long, or showed no progress for too long, and was ended."""


@dataclass(frozen=True, slots=True)
class CompletedProgram:
    """Exit code and output of a program that has ended; ``code`` is 0 for success."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Supervision:
    """Limits and callbacks for a running program.

    ``seconds`` limits the whole run, ``quiet`` the seconds without progress. ``watch`` is called
    every quarter of a second: a changed return value counts as progress, an exception ends the
    program and is passed on. ``listen`` receives each line of stdout. The last ``output_bytes`` of
    each stream are kept.
    """

    seconds: float
    quiet: float = QUIET
    watch: Callable[[], object] = lambda: None
    listen: Callable[[str], None] = lambda _: None
    output_bytes: int = MAX_OUTPUT


@dataclass(frozen=True, slots=True)
class ProgramRights:
    """Directory and rights of a program that gets fewer of them than its caller.

    ``user`` is the id of its user and its only group; None for those of the caller. No file that it
    writes becomes longer than ``file_bytes``, and it cannot get other rights back.
    """

    directory: Path
    user: int | None
    file_bytes: int


def run_program(
    command: Sequence[str],
    environment: Mapping[str, str],
    supervision: Supervision,
    rights: ProgramRights | None = None,
    stdin: bytes = b"",
) -> CompletedProgram:
    """Run a program with ``stdin``, which is kept in memory, and wait for its end.

    The program gets a process group of its own. When this function returns or raises, also after an
    interruption by a signal, the whole group has ended. If this process is killed, the kernel kills
    the group.

    Raises:
        Hung: the program exceeded a limit of ``supervision``.
        OSError: the program cannot be started.
    """
    user = None if rights is None else rights.user
    with ExitStack() as life:
        tether = life.enter_context(_open_tether())
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=None if rights is None else rights.directory,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stdin=life.enter_context(_open_input(stdin)) if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[tether],
            bufsize=0,
            start_new_session=True,
            preexec_fn=partial(_prepare_child, os.getpid(), tether, rights),  # noqa: PLW1509  (ctypes is loaded before the fork)
        )
        try:
            stdout, stderr = _Run(process, supervision).attend()
        finally:
            _end_group(process)
    return CompletedProgram(process.returncode, stdout, stderr)


@contextmanager
def _open_input(data: bytes) -> Iterator[int]:
    """Open an anonymous file in memory with ``data``."""
    descriptor = os.memfd_create("slipway-stdin", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _open_tether() -> Iterator[int]:
    """Open a pipe, and yield the end that a program inherits; the other end is this process's."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def _tie_group(tether: int) -> None:
    """Let the kernel kill the caller's process group when the other end of ``tether`` is closed.

    The program does so itself, before it starts: a signal may interrupt its parent in between.

    The death signal reaches the first process of a group alone, and a make that is killed leaves
    its children behind. A pipe tells its end by a signal to a whole group: fcntl(2), F_SETSIG.
    """
    fcntl.fcntl(tether, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(tether, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(tether, fcntl.F_SETFL, fcntl.fcntl(tether, fcntl.F_GETFL) | os.O_ASYNC)


def _prepare_child(parent: int, tether: int, rights: ProgramRights | None) -> None:
    """Bind the life of the calling process group to its parent, and give up rights."""
    _tie_group(tether)
    if rights is not None:
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (rights.file_bytes, rights.file_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    set_parent_death_signal(parent)


def set_parent_death_signal(parent: int) -> None:
    """Ask the kernel to kill the calling process when the thread that started it ends (prctl(2)).

    ``parent`` is the id of the process that started this process. If the parent has ended already,
    exit at once.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@dataclass(slots=True)
class _Stream:
    """The last ``limit`` bytes of a stream, split into lines."""

    limit: int
    chunks: deque[bytes] = field(default_factory=deque)
    size: int = 0
    line: bytes = b""

    def add(self, data: bytes) -> list[bytes]:
        self.chunks.append(data)
        self.size += len(data)
        while self.size - len(self.chunks[0]) > self.limit:
            self.size -= len(self.chunks.popleft())
        *lines, self.line = (self.line + data).split(b"\n")
        self.line = self.line[-4096:]
        return lines

    def text(self) -> str:
        return b"".join(self.chunks).decode("utf-8", "replace")


class _Run:
    """A running program. Its end is observed without reaping: the group's id stays reserved."""

    def __init__(self, process: subprocess.Popen[bytes], supervision: Supervision) -> None:
        self._process = process
        self._supervision = supervision
        self._streams = tuple(_Stream(supervision.output_bytes) for _ in range(2))
        self._ended = False

    def attend(self) -> tuple[str, str]:
        """Wait for the program's end; return its stdout and stderr."""
        with selectors.DefaultSelector() as selector:
            for file, stream in zip(
                (self._process.stdout, self._process.stderr), self._streams, strict=True
            ):
                assert file is not None
                selector.register(file, selectors.EVENT_READ, stream)
            with _open_pidfd(self._process) as ending:
                selector.register(ending, selectors.EVENT_READ)
                self._watch_streams(selector)
        stdout, stderr = self._streams
        return stdout.text(), stderr.text()

    def _watch_streams(self, selector: selectors.BaseSelector) -> None:
        began = alive = monotonic()
        sign: object = None
        while selector.get_map():
            ready = [key for key, _ in selector.select(_TICK)]
            for key in ready:
                self._take_output(key, selector)
            now, seen = monotonic(), self._supervision.watch()
            if ready or seen != sign:
                alive, sign = now, seen
            elif self._ended:
                return  # a descendant of the program still holds the pipes
            if now - began > self._supervision.seconds:
                raise Hung(f"took more than {self._supervision.seconds:.0f} seconds")
            if now - alive > self._supervision.quiet:
                raise Hung(f"did nothing for {self._supervision.quiet:.0f} seconds")

    def _take_output(self, key: selectors.SelectorKey, selector: selectors.BaseSelector) -> None:
        if key.data is None:
            self._ended = True
            selector.unregister(key.fileobj)
        elif not (data := os.read(key.fd, 1 << 16)):
            selector.unregister(key.fileobj)
        else:
            for line in key.data.add(data):
                if key.data is self._streams[0]:
                    self._supervision.listen(line.decode("utf-8", "replace"))


@contextmanager
def _open_pidfd(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """Open a descriptor that becomes readable when the program has ended."""
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program's whole process group, and wait for the program."""
    try:
        with _open_pidfd(process) as ending, selectors.DefaultSelector() as selector:
            selector.register(ending, selectors.EVENT_READ)
            if not selector.select(0):
                # SIGTERM first: apt then stores the time of a partial download, and can resume it.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                selector.select(_GRACE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
