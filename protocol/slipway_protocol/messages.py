"""The messages that host and agent exchange.

Every message is a frozen value. Which number it has on the wire, in which direction it travels and
what bounds its fields is the business of :mod:`slipway_protocol.schema`; a new field goes at the
end of its class, so that older peers may ignore it.

Units are in the names: ``_ms`` and ``_us`` are milli- and microseconds, ``_ns`` nanoseconds since
the epoch, ``_bytes`` bytes. A limit of zero means "no limit" unless its comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Stream(IntEnum):
    """The three byte streams of a program, by their file descriptors."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2


class Phase(IntEnum):
    """The two parts of a job."""

    BUILD = 1
    RUN = 2


class Verdict(IntEnum):
    """How a phase ended; exactly one of these."""

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
    """How much an agent log line matters."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class Limits:
    """What one phase may use. Zero is "no limit", for memory "what the machine has left"."""

    wall_ms: int = 0
    cpu_ms: int = 0
    memory_bytes: int = 0
    processes: int = 0
    file_bytes: int = 0
    open_files: int = 0  # what the program may raise its own limit to
    # Of each of stdout and stderr; what is over is dropped and counted.
    output_bytes: int = 0
    # Ends the phase as OUTPUT_EXCEEDED when a stream passes output_bytes.
    kill_on_output: bool = False
    # The limit of open files that the program begins with; zero: open_files.
    soft_open_files: int = 0


@dataclass(frozen=True, slots=True)
class Tty:
    """The size of a terminal, in characters."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: argument vector, environment, limits, and whether it gets stdin.

    With ``tty`` a terminal of that size is its stdin, stdout and stderr, and all that it writes
    there is told as stdout. ``out_of_memory`` are words that its runtime says on stderr when it
    ends for want of memory.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    limits: Limits
    stdin: bool = False
    tty: Tty | None = None
    out_of_memory: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What one phase used, as cgroup v2 counts it."""

    wall_us: int = 0
    user_us: int = 0
    system_us: int = 0
    memory_peak_bytes: int = 0
    processes_peak: int = 0


# --- Host to agent ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens the conversation; may come again, and is then answered again.

    ``entropy`` is mixed into the guest's random state and ``time_ns`` set as its wall clock before
    anything else happens: a machine resumed from a snapshot has neither of its own. With ``clone``
    it is one, and becomes a machine of its own in all else as well: host name, boot id.
    """

    version: int
    capabilities: tuple[str, ...]
    time_ns: int
    entropy: bytes
    clone: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """Announces a job; its files follow, then :class:`Start`.

    ``outputs`` are the paths, relative to the working directory, that the host wants back.
    ``window_bytes`` is the credit that stdout and stderr each begin with. ``disk_bytes`` bounds the
    working directory and ``/tmp`` together with what the memory limit leaves. With ``keep`` the job
    works on the disk of the last such job, if there was one, and leaves it to the next: the files
    of a session. A job without it ends the session's disk.
    """

    job: int
    build: Command | None
    run: Command
    outputs: tuple[str, ...]
    window_bytes: int
    disk_bytes: int = 0
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Prestart:
    """Start ``run`` before there is a job for it, up to where it reads its script ``path``.

    The next job takes the program over if it has no build, the same argument vector and
    environment, a file of that path, and no file of a path in ``unless``; any other job ends it.
    Its limits are those of the job. No answer follows, even where the program cannot be started.
    """

    run: Command
    path: str
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A file follows as :class:`FileData` until ``size`` bytes are there. Both directions.

    ``path`` is relative to the job's working directory and never leaves it.
    """

    job: int
    path: str
    mode: int
    size: int


@dataclass(frozen=True, slots=True)
class FileData:
    """The next bytes of the file last announced. Both directions."""

    job: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Start:
    """All files are there; begin with the first phase."""

    job: int


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for the program's stdin, within the credit that the agent gave."""

    job: int
    data: bytes


@dataclass(frozen=True, slots=True)
class InputEnd:
    """No more stdin: the program reads end of file after what was sent."""

    job: int


@dataclass(frozen=True, slots=True)
class Credit:
    """The receiver of ``stream`` can take ``count`` more bytes. Both directions."""

    job: int
    stream: Stream
    count: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Send signal ``number`` to the program of the phase that runs now."""

    job: int
    number: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the job now; its phase ends as CANCELLED."""

    job: int


@dataclass(frozen=True, slots=True)
class Resize:
    """The terminal of the job's program has another size from now on."""

    job: int
    tty: Tty


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the machine."""


# --- Agent to host ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Awake:
    """The agent has opened its port. A host whose Hello came too early says it again."""

    version: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Answers Hello: who the agent is and what it found.

    ``start_us`` is the CPU time from the agent's first instruction to here, ``uptime_us`` the
    guest's uptime, ``memory_bytes`` the memory a job can have.
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
class PhaseStarted:
    """``phase`` has begun. Whether its program could be started, PhaseDone tells."""

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
    """End of file of ``stream``: ``sent`` bytes were passed on, ``dropped`` were over the limit."""

    job: int
    stream: Stream
    sent: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The program of ``phase`` itself has ended: by ``signal``, or with ``code`` if that is 0."""

    job: int
    phase: Phase
    code: int
    signal: int


@dataclass(frozen=True, slots=True)
class PhaseDone:
    """The phase is over: both streams are at their end and nothing of it runs any more.

    ``detail`` is a sentence for people where the verdict alone does not tell, else empty.
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
    """A file that was asked for cannot be sent, and why."""

    job: int
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobDone:
    """The last word about a job; its files have been sent and its traces removed."""

    job: int


@dataclass(frozen=True, slots=True)
class Log:
    """A line of the agent's own log."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """The peer broke the protocol, or the agent cannot go on; ``fatal`` says which it means."""

    text: str
    fatal: bool


HostMessage = (
    Hello
    | Prestart
    | Job
    | File
    | FileData
    | Start
    | Input
    | InputEnd
    | Credit
    | Signal
    | Cancel
    | Resize
    | Shutdown
)
AgentMessage = (
    Awake
    | Ready
    | PhaseStarted
    | Output
    | OutputEnd
    | Exited
    | PhaseDone
    | File
    | FileData
    | FileMissing
    | JobDone
    | Credit
    | Log
    | Fault
)
Message = HostMessage | AgentMessage
