"""Agent of a fake machine: speaks the real protocol, and runs programs of a small language.

A program is text; each line is one command. It is read as bytes, so that any source may be sent.

::

    print TEXT      TEXT and a newline to stdout        error TEXT    the same to stderr
    echo            stdin to stdout, until its end      read N        N bytes of stdin to stdout
    flood N         N bytes of "x" to stdout            arguments     the argv, one a line
    exit N          end with code N                     env NAME      a variable's value
    sleep S         wait S seconds                      cat PATH      a file of the job to stdout
    forever         wait for a signal                   write PATH TEXT   make a file to be fetched
    zeros N PATH    make a file of N NULs to be fetched
    zeros N PATH    make a file of N NULs               lie           break the protocol
    die             the whole machine ends at once
    size            the terminal's rows and columns     resized       wait for another size
    look-up NAME    the address of NAME by the gateway's name server, or "unknown"
    trap N          from now on signal N does not end the program; while it waits for stdin or
                    for ever, it prints "signal N" instead
    build-print TEXT, build-error TEXT, build-sleep S   what the build does, where there is one
    build-fail      the build ends with code 1

Empty lines and those that begin with ``#`` are nothing; any other is written to stderr and ends the
program with code 127. Signals, Cancel, credit, wall-clock and output limits, wanted files and Job's
``keep`` are honoured as the real agent does; Prestart is not.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.ipv4 import build_udp
from slipway_protocol import messages as m
from slipway_protocol.connection import Connection
from slipway_protocol.flow import SendWindow
from slipway_protocol.joining import JOINED_FILES, FileJoiner
from slipway_protocol.schema import MAX_DATA, VERSION
from support.name_server import build_question, parse_answer
from support.tcp_wire import turn_frame

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    Files = dict[str, tuple[int, bytearray]]

READ_SIZE = 256 * 1024
INPUT_WINDOW = 64 * 1024
READY = m.Ready(VERSION, "fake", ("network", JOINED_FILES), "6.1.0-fake", 1, 64 * 1024 * 1024, 1, 1)
# Headers of Ethernet, IPv4 and UDP.
_DNS_OFFSET = 14 + 20 + 8
_FLOOD = b"x" * MAX_DATA
_KILLED = {m.Verdict.TIMED_OUT, m.Verdict.CANCELLED, m.Verdict.OUTPUT_EXCEEDED}
# What a program that knows nothing of signals is not ended by; signal(7).
_IGNORED = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}


class FakeAgent:
    """Agent that answers a host until the host hangs up; ``die`` ends the machine."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        die: Callable[[], None],
        original: FakeAgent | None = None,
    ) -> None:
        """``original``: the agent that was cloned."""
        self._reader = reader
        self._writer = writer
        self._die = die
        self._boots = original is None
        self.kept: Files = {} if original is None else deepcopy(original.kept)
        """The files of jobs that keep them."""
        self.hellos: list[bool] = []
        """For each Hello, whether it said that this is a clone."""
        # The machine's end of its link, if it has a network.
        self.link: socket.socket | None = None
        self._connection = Connection.agent()
        self._job: FakeJob | None = None

    async def serve(self) -> None:
        """Until the host has gone."""
        try:
            if self._boots:
                self.send(m.Awake(VERSION))
            with suppress(OSError):  # how the host ended the machine is its own business
                while data := await self._reader.read(READ_SIZE):
                    for event in self._connection.receive(data):
                        await self._receive(event)
        finally:
            if self._job is not None:
                await self._job.abandon()

    def send(self, message: m.Message) -> None:
        """Send without waiting; credit bounds the unsent bytes."""
        self._writer.write(self._connection.send(message))

    async def write(self, message: m.Message) -> None:
        """Send, and wait while the host does not read."""
        self.send(message)
        await self._writer.drain()

    def die(self) -> None:
        """End the machine."""
        self._die()

    async def look_up(self, name: str) -> str:
        """Ask the gateway for the address of ``name``; "unknown" if it denies the name."""
        if self.link is None:
            return "no network"
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(
            self.link, turn_frame(build_udp(GATEWAY, 53, 5353, build_question(name)))
        )
        frame = await loop.sock_recv(self.link, 65_536)
        _, found = parse_answer(frame[_DNS_OFFSET:])
        return found[0] if found else "unknown"

    async def _receive(self, event: object) -> None:
        job = self._job
        match event:
            case m.Hello(clone=clone):
                self.hellos.append(clone)
                self.send(READY)
            case m.Prestart():
                pass
            case m.Connect():
                self.send(m.Connected(1, 1))
            case m.Job():
                if job is not None:
                    await job.abandon()
                if not event.keep:
                    self.kept = {}
                self._job = FakeJob(self, event, self.kept)
            case m.Shutdown():
                self.die()
            case _ if job is not None:
                job.receive(event)


class _Stopped(BaseException):
    """End of a program before the last command."""

    def __init__(self, verdict: m.Verdict, code: int = 0, number: int = 0) -> None:
        super().__init__(verdict)
        self.verdict = verdict
        self.code = code
        self.number = number


@dataclass(slots=True)
class _Sent:
    sent: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _Input:
    """Bytes of stdin that have arrived and are unread."""

    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeJob:
    """Job of the fake agent: takes the host's messages, and runs the phases in a task."""

    def __init__(self, agent: FakeAgent, spec: m.Job, files: Files) -> None:
        self._agent = agent
        self._spec = spec
        self._number = spec.job
        self._source = ""
        self._files = files
        self._fetched = 0
        self._incoming = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._stop: _Stopped | None = None
        self._program: asyncio.Task[None] | None = None
        self._cancelled = False
        self._traps: set[int] = set()
        self._trapped: list[int] = []
        self._input = _Input()
        self._size = spec.run.tty
        self._resized = asyncio.Event()
        self._streams: dict[m.Stream, _Sent] = {}
        self._credit = asyncio.Event()
        self._windows = {
            stream: SendWindow(spec.window_bytes) for stream in (m.Stream.STDOUT, m.Stream.STDERR)
        }

    def receive(self, message: object) -> None:
        """Handle a message about this job."""
        match message:
            case m.File(path=path, mode=mode):
                self._source = self._source or path
                self._incoming = bytearray()
                self._files[path] = (mode, self._incoming)
            case m.FileData(data=data):
                self._incoming += data
            case m.Files(files=files):
                for file in files:
                    self._source = self._source or file.path
                    self._files[file.path] = (file.mode, bytearray(file.data))
            case m.Start():
                self._task = asyncio.create_task(self._run())
            case m.Input(data=data):
                self._input.data += data
                self._input.changed.set()
            case m.InputEnd():
                self._input.ended = True
                self._input.changed.set()
            case m.Credit(stream=stream, count=count):
                self._windows[stream].grant(count)
                self._credit.set()
            case m.Signal(number=number) if number in self._traps:
                self._trapped.append(number)
                self._input.changed.set()
            case m.Signal(number=number) if number and number not in _IGNORED:
                self.end_program(_Stopped(m.Verdict.SIGNALED, number=number))
            case m.Resize(tty=size):
                self._size = size
                self._resized.set()
            case m.Cancel():
                self._cancelled = True
                self.end_program(_Stopped(m.Verdict.CANCELLED))
                if self._task is None:
                    self._agent.send(m.JobDone(self._number))

    async def abandon(self) -> None:
        """Stop the job and all tasks of it without a message."""
        for task in (self._program, self._task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def end_program(self, how: _Stopped) -> None:
        """End the running program, once, in the given way."""
        if self._program is not None and self._stop is None:
            self._stop = how
            self._program.cancel()

    async def _run(self) -> None:
        spec, lines = self._spec, bytes(self._files[self._source][1]).splitlines()
        if spec.run.stdin or spec.run.tty is not None:
            self._agent.send(m.Credit(self._number, m.Stream.STDIN, INPUT_WINDOW))
        verdict = m.Verdict.OK
        if spec.build is not None:
            build = [line[6:] for line in lines if line.startswith(b"build-")]
            verdict = await self._phase(m.Phase.BUILD, spec.build, build)
        if verdict is m.Verdict.OK and not self._cancelled:
            run = [line for line in lines if not line.startswith(b"build-")]
            await self._phase(m.Phase.RUN, spec.run, run)
        for path in spec.outputs:
            await self._hand_over(path)
        await self._agent.write(m.JobDone(self._number))

    async def _hand_over(self, path: str) -> None:
        mode, data = self._files.get(path, (0, None))
        room = self._spec.outputs_bytes - self._fetched
        is_large = data is not None and len(data) > room
        if data is None or is_large or self._cancelled:
            reason = "too large (fetch_limit)" if is_large else "no such file"
            reason = "the job was cancelled" if self._cancelled else reason
            await self._agent.write(m.FileMissing(self._number, path, reason))
            return
        self._fetched += len(data)
        if FileJoiner.accepts(path, len(data)):
            whole = m.WholeFile(path, mode, bytes(data))
            await self._agent.write(m.Files(self._number, (whole,)))
            return
        await self._agent.write(m.File(self._number, path, mode, len(data)))
        for start in range(0, len(data), MAX_DATA):
            piece = bytes(data[start : start + MAX_DATA])
            await self._agent.write(m.FileData(self._number, piece))

    async def _phase(self, phase: m.Phase, command: m.Command, lines: list[bytes]) -> m.Verdict:
        began = time.monotonic()
        self._stop, self._traps = None, set()
        self._streams = {m.Stream.STDOUT: _Sent(), m.Stream.STDERR: _Sent()}
        self._agent.send(m.PhaseStarted(self._number, phase))
        how = _Stopped(m.Verdict.OK)
        self._program = asyncio.create_task(self._execute(command, lines))
        try:
            wall = command.limits.wall_ms / 1000
            done, _ = await asyncio.wait([self._program], timeout=wall or None)
            if not done:
                self.end_program(_Stopped(m.Verdict.TIMED_OUT))
            await self._program
        except _Stopped as stopped:
            how = stopped
        except asyncio.CancelledError:
            if self._stop is None:  # it is this task that is cancelled
                raise
            how = self._stop
        finally:
            self._program.cancel()
            self._program = None
        number = signal.SIGKILL if how.verdict in _KILLED else how.number
        self._agent.send(m.Exited(self._number, phase, how.code, number))
        for stream, count in self._streams.items():
            self._agent.send(m.OutputEnd(self._number, stream, count.sent, count.dropped))
        wall_us = round((time.monotonic() - began) * 1e6)
        usage = m.Usage(wall_us, 1, 1, 4096, 1)
        done_ = m.PhaseDone(self._number, phase, how.verdict, how.code, number, usage)
        await self._agent.write(done_)
        return how.verdict

    # --- Programs ---------------------------------------------------------------------------

    async def _execute(self, command: m.Command, lines: list[bytes]) -> None:
        for line in lines:
            verb, _, rest = line.strip().partition(b" ")
            if verb and not verb.startswith(b"#"):
                await self._step(command, verb.decode("latin-1"), rest)

    async def _step(self, command: m.Command, verb: str, rest: bytes) -> None:
        limits = command.limits
        try:
            match verb:
                case "print":
                    await self._out(limits, m.Stream.STDOUT, rest + b"\n")
                case "error":
                    await self._out(limits, m.Stream.STDERR, rest + b"\n")
                case "flood":
                    for start in range(0, int(rest), MAX_DATA):
                        piece = _FLOOD[: min(MAX_DATA, int(rest) - start)]
                        await self._out(limits, m.Stream.STDOUT, piece)
                case "echo":
                    while data := await self._read(limits, MAX_DATA):
                        await self._out(limits, m.Stream.STDOUT, data)
                case "read":
                    left = int(rest)
                    while left and (data := await self._read(limits, left)):
                        left -= len(data)
                        await self._out(limits, m.Stream.STDOUT, data)
                case "arguments":
                    text = "".join(f"{argument}\n" for argument in command.argv)
                    await self._out(limits, m.Stream.STDOUT, text.encode("utf-8", "replace"))
                case "env":
                    value = dict(command.environment).get(rest.decode(), "")
                    await self._out(limits, m.Stream.STDOUT, f"{value}\n".encode())
                case "cat":
                    await self._out(limits, m.Stream.STDOUT, bytes(self._files[rest.decode()][1]))
                case "write":
                    path, _, content = rest.partition(b" ")
                    self._files[path.decode()] = (0o644, bytearray(content))
                case "zeros":
                    number, _, path = rest.partition(b" ")
                    self._files[path.decode()] = (0o644, bytearray(int(number)))
                case "trap":
                    self._traps.add(int(rest))
                case "size":
                    size = self._size
                    told = f"{size.rows}x{size.columns}\n" if size is not None else "no terminal\n"
                    await self._out(limits, m.Stream.STDOUT, told.encode())
                case "resized":
                    await self._resized.wait()
                    self._resized.clear()
                case "look-up":
                    found = await self._agent.look_up(rest.decode())
                    await self._out(limits, m.Stream.STDOUT, f"{found}\n".encode())
                case "sleep":
                    await asyncio.sleep(float(rest))
                case "forever":
                    while True:
                        await self._wait_for_input(limits)
                case "exit" | "fail":
                    code = int(rest or b"1")
                    raise _Stopped(m.Verdict.FAILED if code else m.Verdict.OK, code)
                case "die":
                    self._agent.die()
                    await asyncio.get_running_loop().create_future()
                case "lie":
                    self._agent.send(m.JobDone(self._number + 1))
                    await asyncio.get_running_loop().create_future()
                case _:
                    raise ValueError("no such command")
        except (ValueError, KeyError) as error:
            words = f"{verb}: {error}\n".encode("utf-8", "replace")
            await self._out(limits, m.Stream.STDERR, words)
            raise _Stopped(m.Verdict.FAILED, 127) from None

    async def _read(self, limits: m.Limits, most: int) -> bytes:
        """Return the bytes of stdin that have arrived, at least a byte; empty at the end."""
        while not self._input.data and not self._input.ended:
            await self._wait_for_input(limits)
        data = bytes(self._input.data[:most])
        del self._input.data[:most]
        if data:
            self._agent.send(m.Credit(self._number, m.Stream.STDIN, len(data)))
        return data

    async def _wait_for_input(self, limits: m.Limits) -> None:
        """Until something came of stdin, or a signal that is trapped, which is told."""
        await self._input.changed.wait()
        self._input.changed.clear()
        while self._trapped:
            line = f"signal {self._trapped.pop(0)}\n"
            await self._out(limits, m.Stream.STDOUT, line.encode())

    async def _out(self, limits: m.Limits, stream: m.Stream, data: bytes) -> None:
        window, count = self._windows[stream], self._streams[stream]
        if limits.output_bytes:
            rest = max(0, limits.output_bytes - count.sent)
            count.dropped += max(0, len(data) - rest)
            data, over = data[:rest], len(data) > rest
        else:
            over = False
        while data:
            while not window.available:
                self._credit.clear()
                await self._credit.wait()
            piece = data[: min(window.available, MAX_DATA)]
            data = data[len(piece) :]
            window.spend(len(piece))
            count.sent += len(piece)
            await self._agent.write(m.Output(self._number, stream, piece))
        if over and limits.kill_on_output:
            raise _Stopped(m.Verdict.OUTPUT_EXCEEDED)
