"""Agent's side of the protocol: handshake, jobs, Shutdown and faults."""

from __future__ import annotations

from slipway_agent.job_handler import JobHandler
from slipway_agent.loop import READABLE, WRITABLE, Loop
from slipway_agent.program_launcher import StartError
from slipway_agent.workspaces import Workspaces
from slipway_protocol import messages as m
from slipway_protocol.connection import Connection, Violation
from slipway_protocol.errors import ProtocolError
from slipway_protocol.framing import BadFrame
from slipway_protocol.joining import JOINED_FILES
from slipway_protocol.schema import MAX_TEXT, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from slipway_agent.job_environment import JobEnvironment
    from slipway_agent.loop import Child
    from slipway_agent.port import HostPort

    class System(JobEnvironment, Protocol):
        """Operations of the guest that the agent calls, besides those for jobs."""

        def set_time_and_entropy(self, time_ns: int, entropy: bytes, *, clone: bool) -> None:
            """Set the clock and the random state.

            Raises:
                OSError: the kernel refuses.
            """

        def set_identity(self, *, clone: bool) -> None:
            """Set the host name, and for a ``clone`` a new boot id as well.

            Raises:
                OSError: the kernel refuses.
            """

        def describe(self) -> m.Ready:
            """Return the answer to Hello."""

        def connect(self, spec: m.Connect) -> m.Connected:
            """Bring the network interface up.

            Raises:
                OSError: the interface is missing, or the kernel refuses.
            """


# Bytes queued for the host: above HIGH_WATER the agent stops to read the output of programs, and it
# resumes below LOW_WATER.
HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
# Bounds the Log messages about bad frames on a noisy line.
MAX_NOISE_REPORTS = 8
READS_PER_TURN = 32


class ShutdownError(Exception):
    """Request of the host to end the machine."""


class Agent:
    """Connection to the host, with at most one job at a time."""

    def __init__(self, system: System, port: HostPort) -> None:
        self._system = system
        self._port = port
        self._connection = Connection.agent()
        self._loop = Loop(self._handle_ended_children)
        self._workspaces = Workspaces(self._loop, system)
        self._job: JobHandler | None = None
        self._joins_files = False  # the host understands Files
        self._noise = 0
        self._paused = False
        self._watched = READABLE
        port.watch(self._loop, READABLE, self._read_port)

    def run(self) -> None:
        """Serve the host until Shutdown.

        Raises:
            PortClosedError: the host has closed its end.
        """
        self.send(m.Awake(VERSION))
        self._port.flush()
        try:
            while True:
                self._loop.run_once()
                self._flush_port()
        except ShutdownError:
            return

    def send(self, message: m.Message) -> None:
        """Queue ``message`` until the end of this turn of the loop."""
        self._port.send(self._connection.send(message))
        if not self._paused and self._port.pending > HIGH_WATER:
            self._set_paused(True)

    def log(self, level: m.Level, text: str) -> None:
        """Send a line to the host's log."""
        self.send(m.Log(level, text.replace("\0", "")[:MAX_TEXT]))

    def report_fault(self, text: str, *, fatal: bool) -> None:
        """Send a Fault; after a ``fatal`` one the agent serves no jobs."""
        self.send(m.Fault(text.replace("\0", "")[:MAX_TEXT], fatal))

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused
        if self._job is not None:
            self._job.set_paused(paused)

    def _flush_port(self) -> None:
        if self._port.pending:
            self._port.flush()
        if self._paused and self._port.pending <= LOW_WATER:
            self._set_paused(False)
        wanted = READABLE | WRITABLE if self._port.pending else READABLE
        if wanted != self._watched:
            self._watched = wanted
            self._port.watch(self._loop, wanted, self._read_port)

    def _read_port(self, _events: int) -> None:
        # The virtio driver hands out one page at a time.
        for _ in range(READS_PER_TURN):
            data = self._port.read()
            if not data:
                return
            self._handle_data(data)

    def _handle_data(self, data: bytes) -> None:
        for event in self._connection.receive(data):
            if isinstance(event, BadFrame):
                self._noise += 1
                if self._noise <= MAX_NOISE_REPORTS:
                    self.log(m.Level.WARNING, f"dropped {event.size} bytes: {event.reason}")
            elif isinstance(event, Violation):
                self.report_fault(event.reason, fatal=False)
            else:
                try:
                    self._handle_message(event)
                except ProtocolError as error:
                    self.report_fault(error.message, fatal=False)

    def _handle_message(self, message: m.Message) -> None:
        if isinstance(message, m.Hello):
            self._answer_hello(message)
        elif isinstance(message, m.Shutdown):
            raise ShutdownError
        elif isinstance(message, m.Job):
            self._begin_job(message)
        elif isinstance(message, m.Prestart):
            self._prestart_program(message)
        elif isinstance(message, m.Connect):
            self._connect_network(message)
        elif self._job is not None and message.job == self._job.number:  # type: ignore[union-attr]
            self._job.receive(message)
        elif isinstance(message, m.File | m.FileData | m.Files | m.Start):
            raise ProtocolError(f"{type(message).__name__} for job {message.job}, which is unknown")
        # Other messages about a finished job have crossed JobDone on their way.

    def _answer_hello(self, hello: m.Hello) -> None:
        if hello.version != VERSION:
            self.report_fault(
                f"the agent speaks version {VERSION}, not {hello.version}", fatal=True
            )
            return
        self._joins_files = JOINED_FILES in hello.capabilities
        if hello.clone:
            self._workspaces.end_prestarted()  # all clones would share its random seeds
        try:
            self._system.set_time_and_entropy(hello.time_ns, hello.entropy, clone=hello.clone)
        except OSError as error:
            if hello.clone:
                self.report_fault(
                    f"cannot give the clone its own clock and random state: {error}", fatal=True
                )
                return
            self.log(m.Level.WARNING, f"cannot set clock and random state: {error}")
        try:
            self._system.set_identity(clone=hello.clone)
        except OSError as error:
            self.log(m.Level.WARNING, f"cannot set the host name: {error}")
        self.send(self._system.describe())

    def _begin_job(self, spec: m.Job) -> None:
        if self._job is not None:
            raise ProtocolError(f"job {spec.job} arrived before the end of job {self._job.number}")
        self._job = JobHandler(
            self._loop,
            self._workspaces,
            spec,
            self.send,
            self._forget_job,
            joins_files=self._joins_files,
        )

    def _prestart_program(self, spec: m.Prestart) -> None:
        if self._job is not None:
            raise ProtocolError(f"Prestart arrived before the end of job {self._job.number}")
        try:
            self._workspaces.prestart(spec)
        except (OSError, StartError) as error:
            self.log(m.Level.INFO, f"cannot prestart the program: {error}")

    def _connect_network(self, spec: m.Connect) -> None:
        if self._job is not None:
            raise ProtocolError(f"Connect arrived before the end of job {self._job.number}")
        try:
            self.send(self._system.connect(spec))
        except OSError as error:
            self.report_fault(f"cannot set up the network: {error}", fatal=False)

    def _forget_job(self) -> None:
        self._job = None

    def _handle_ended_children(self, children: list[Child]) -> None:
        if self._job is not None:
            self._job.handle_ended_children(children)
        else:
            self._workspaces.handle_ended_children(children)
