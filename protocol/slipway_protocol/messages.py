"""Messages of host and agent, as frozen values.

:mod:`slipway_protocol.schema` has the id and direction of each message and the bounds of its
fields. A new field goes to the end of its class, where older peers ignore it. Both directions are
in one module, since File, FileData, Files and Credit travel in both, and since each module costs
time at the agent's start.

Units are in the names: ``_ms`` and ``_us`` are milli- and microseconds, ``_ns`` nanoseconds since
the epoch, ``_bytes`` bytes. A limit of zero means "no limit" unless its comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Stream(IntEnum):
    """Byte stream of a program, by its file descriptor."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2


class Phase(IntEnum):
    """Part of a job with a program of its own."""

    BUILD = 1
    RUN = 2


class Verdict(IntEnum):
    """Outcome of a phase."""

    OK = 0
    FAILED = 1
    SIGNALED = 2
    TIMED_OUT = 3
    CPU_EXCEEDED = 4
    MEMORY_EXCEEDED = 5
    OUTPUT_EXCEEDED = 6
    CANCELLED = 7
    INTERNAL_ERROR = 8


class Level(IntEnum):
    """Severity of a line in the agent's log, numbered as in Python's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one phase. Zero means "no limit"; for memory, the machine's free memory."""

    wall_ms: int = 0
    cpu_ms: int = 0
    memory_bytes: int = 0
    processes: int = 0
    file_bytes: int = 0
    open_files: int = 0  # hard limit: the program may raise its own up to here
    # Of each of stdout and stderr; more bytes are dropped and counted.
    output_bytes: int = 0
    # Ends the phase as OUTPUT_EXCEEDED when a stream passes output_bytes.
    kill_on_output: bool = False
    # Soft limit of open files, with which the program begins; zero: open_files.
    soft_open_files: int = 0


@dataclass(frozen=True, slots=True)
class Tty:
    """Size of a terminal, in characters; zero is an unknown size."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True)
class Command:
    """Program of a phase: argument vector, environment, limits and standard streams.

    Without ``stdin`` its standard input is empty. With ``tty`` a terminal of that size is stdin,
    stdout and stderr, and its output is reported as stdout. ``out_of_memory`` are messages that
    the program's runtime prints to stderr when memory is short.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    limits: Limits
    stdin: bool = False
    tty: Tty | None = None
    out_of_memory: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WholeFile:
    """File with all of its data; ``path`` is as in :class:`File`."""

    path: str
    mode: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that a phase used, as counted by cgroup v2."""

    wall_us: int = 0
    user_us: int = 0
    system_us: int = 0
    memory_peak_bytes: int = 0
    processes_peak: int = 0


# --- Host to agent ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of the handshake; each Hello is answered by Ready.

    The agent first mixes ``entropy`` into the guest's random state and sets the wall clock to
    ``time_ns``: a machine that resumes from a snapshot has the state of its template. ``clone``
    says that this machine is a clone; the agent then also gives the guest a new host name and boot
    id.
    """

    version: int
    capabilities: tuple[str, ...]
    time_ns: int
    entropy: bytes
    clone: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """Announcement of a job; its files follow, then :class:`Start`.

    ``outputs`` are paths, relative to the working directory, of files that the agent sends back.
    ``window_bytes`` is the initial credit of stdout and of stderr. ``disk_bytes`` bounds the
    workspace: working directory, ``/tmp`` and the other writable directories together. A job with
    ``keep`` uses the workspace of the previous such job and leaves the files for the next: those
    of a session. A job without ``keep`` removes the session's workspace. ``outputs_bytes`` bounds
    the contents of all ``outputs`` together; 0 leaves the bound to the agent.
    """

    job: int
    build: Command | None
    run: Command
    outputs: tuple[str, ...]
    window_bytes: int
    disk_bytes: int = 0
    keep: bool = False
    outputs_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Prestart:
    """Request to start ``run`` before its job; the program waits where it opens ``path``.

    The next job takes the program if the job has no build, the same argument vector and
    environment, a file with that path, and no file with a path in ``unless``. Any other job ends
    the program. The limits are the job's. No answer follows, even where the start fails.
    """

    run: Command
    path: str
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """Announcement of a file; :class:`FileData` follows, ``size`` bytes in all. Both directions.

    ``path`` is relative to the job's working directory and never leaves it.
    """

    job: int
    path: str
    mode: int
    size: int


@dataclass(frozen=True, slots=True)
class FileData:
    """Next bytes of the file that was announced last. Both directions."""

    job: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Files:
    """Whole files, at least one, as if each had come as File and FileData. Both directions.

    Only to a peer with the capability ``files``.
    """

    job: int
    files: tuple[WholeFile, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """End of the job's files, and request to begin the first phase."""

    job: int


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for the program's stdin, within the credit that the agent granted."""

    job: int
    data: bytes


@dataclass(frozen=True, slots=True)
class InputEnd:
    """End of stdin: after the sent bytes the program reads end of file."""

    job: int


@dataclass(frozen=True, slots=True)
class Credit:
    """Grant of ``count`` more bytes by the receiver of ``stream``. Both directions."""

    job: int
    stream: Stream
    count: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Request to send signal ``number`` to the program of the current phase."""

    job: int
    number: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Request to end the job; the current phase ends as CANCELLED."""

    job: int


@dataclass(frozen=True, slots=True)
class Resize:
    """New size of the terminal of the job's program."""

    job: int
    tty: Tty


@dataclass(frozen=True, slots=True)
class Connect:
    """Request to set up the network interface, answered by :class:`Connected` or Fault.

    ``address`` and ``gateway`` are IPv4 addresses of four bytes in network order, ``prefix`` the
    bits of their common network, ``gateway_mac`` the gateway's Ethernet address, which the guest
    never asks for. ``mtu`` is in bytes.
    """

    address: bytes
    gateway: bytes
    prefix: int
    mtu: int
    gateway_mac: bytes


@dataclass(frozen=True, slots=True)
class Packed:
    """Another message of the host: its payload as a zlib stream (RFC 1950).

    For slow ports, and only to an agent with the capability ``packed``. The agent handles the
    message inside as if it had come by itself.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Request to end the machine."""


# --- Agent to host ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Awake:
    """Report that the agent has opened its port; the host then repeats Hello."""

    version: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Answer to Hello: versions of agent and kernel, and resources of the guest.

    ``start_us`` is the CPU time since the agent's first instruction, ``uptime_us`` the guest's
    uptime, ``memory_bytes`` the memory for jobs.
    """

    version: int
    agent_version: str
    capabilities: tuple[str, ...]
    kernel: str
    cpus: int
    memory_bytes: int
    start_us: int
    uptime_us: int


@dataclass(frozen=True, slots=True)
class Connected:
    """Report that the network interface is up.

    ``load_us`` is the time for the drivers and until the interface appeared, ``configure_us`` the
    time to configure it.
    """

    load_us: int
    configure_us: int


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """Start of ``phase``. A failed start of its program is reported by PhaseDone."""

    job: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that the program wrote, in order within their stream."""

    job: int
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class OutputEnd:
    """End of file of ``stream``: ``sent`` bytes as Output, ``dropped`` bytes above the limit."""

    job: int
    stream: Stream
    sent: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Exited:
    """End of the program of ``phase``: by ``signal``, or with ``code`` where that is 0."""

    job: int
    phase: Phase
    code: int
    signal: int


@dataclass(frozen=True, slots=True)
class PhaseDone:
    """End of a phase: both streams have ended and all processes are gone.

    ``detail`` is a sentence for people that explains the verdict, or empty.
    """

    job: int
    phase: Phase
    verdict: Verdict
    code: int
    signal: int
    usage: Usage
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FileMissing:
    """Report that a requested file cannot be sent, with the reason."""

    job: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobDone:
    """Last message about a job; its files were sent and its traces removed."""

    job: int


@dataclass(frozen=True, slots=True)
class Log:
    """Line of the agent's own log."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Report of an error: the agent stops if ``fatal``, else the host broke the protocol."""

    text: str
    fatal: bool


HostMessage = (
    Hello
    | Prestart
    | Job
    | File
    | FileData
    | Files
    | Start
    | Input
    | InputEnd
    | Credit
    | Signal
    | Cancel
    | Resize
    | Connect
    | Packed
    | Shutdown
)
AgentMessage = (
    Awake
    | Ready
    | Connected
    | PhaseStarted
    | Output
    | OutputEnd
    | Exited
    | PhaseDone
    | File
    | FileData
    | Files
    | FileMissing
    | JobDone
    | Credit
    | Log
    | Fault
)
Message = HostMessage | AgentMessage
