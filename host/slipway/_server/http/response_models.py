"""Models of responses, for the OpenAPI document only: responses are built without them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from slipway._wire.option_models import make_optional_field

State = Literal["queued", "preparing", "booting", "building", "running", "ended"]
Verdict = Literal[
    "ok",
    "failed",
    "signaled",
    "timed_out",
    "cpu_exceeded",
    "memory_exceeded",
    "output_exceeded",
    "cancelled",
    "internal_error",
    "build_failed",
]


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="urn:slipway: and a word for the kind of error.")
    title: str
    status: int
    detail: str = Field(description="The error and the field.")
    hint: str = Field(description="How to fix the error.")
    retry_after: float = make_optional_field("Seconds.")


class StartedDocument(BaseModel):
    """A run that has been started or queued."""

    id: str
    socket: str = Field(description="The Unix socket that gives the output.")
    language: str
    state: State
    position: int | None = Field(description="Number of runs before this run in the queue.")


class UsageDocument(BaseModel):
    """Resource usage of a phase. Times in seconds, memory in bytes."""

    wall: float
    user: float
    system: float
    memory_peak: int
    processes_peak: int


class LimitsDocument(BaseModel):
    """Limits of a phase, by the names of the options; null: no limit but the machine."""

    timeout: float | None
    cpu_time: float | None
    memory_limit: int | None
    processes: int | None
    open_files: int | None = Field(
        description="Hard limit; the program can raise its soft limit up to this."
    )
    file_size: int | None
    output_limit: int | None


class CapturedDocument(BaseModel):
    """Output stream; the kept part is text if it is UTF-8, else base64."""

    bytes: int
    dropped: int
    truncated: bool
    text: str = make_optional_field()
    base64: str = make_optional_field()


class PhaseDocument(BaseModel):
    """Result of one phase."""

    verdict: Verdict
    code: int
    signal: int
    detail: str
    usage: UsageDocument
    limits: LimitsDocument
    stdout: CapturedDocument
    stderr: CapturedDocument


class FileDocument(BaseModel):
    """A requested output file: its content, or the reason why it is missing."""

    path: str
    mode: int = make_optional_field()
    bytes: int = make_optional_field()
    missing: str = make_optional_field()
    text: str = make_optional_field()
    base64: str = make_optional_field()


class TimingDocument(BaseModel):
    """Wall-clock time of the parts of a run, in seconds."""

    queue: float
    prepare: float
    boot: float
    agent: float
    ready: float
    restore: float
    build: float
    run: float
    teardown: float


class DeniedDocument(BaseModel):
    """A destination that the rules did not allow; port 0 is a look-up of a name."""

    destination: str
    port: int
    count: int
    reason: str


class NetworkUseDocument(BaseModel):
    """Use of the network by a run."""

    connections: int
    bytes_to_guest: int
    bytes_from_guest: int
    denials: int = Field(description="Denied requests, also those that are not listed.")
    denied: list[DeniedDocument]
    failed: bool = Field(
        description="True if the gateway ended before the machine, which went on without a network."
    )


class HostUseDocument(BaseModel):
    """Use of the host by a machine, from its start to the end of the run."""

    memory_peak: int = Field(description="Most memory at a time, in bytes.")
    cpu: float = Field(description="CPU time in seconds.")
    is_group: bool = Field(
        description="False if the host has no cgroups for machines: that of one process, then."
    )


class PortDocument(BaseModel):
    """A published port: connections to the host's address lead to the guest's port."""

    guest: int
    host: str
    port: int
    path: str


class ResultDocument(BaseModel):
    """The result of a run."""

    language: str
    verdict: Verdict
    summary: str
    build: PhaseDocument | None
    run: PhaseDocument | None
    files: list[FileDocument]
    timing: TimingDocument
    warnings: list[str]
    tty: bool
    network: NetworkUseDocument | None
    host: HostUseDocument | None
    machine: str
    kernel: str
    image: str
    image_digest: str
    agent: str
    memory: int
    cpus: int
    machine_reason: str
    port: str
    arch: str
    start: str
    start_reason: str


class FailureDocument(BaseModel):
    """The error of a run without a result."""

    error: str
    message: str
    hint: str
    retry_after: float = make_optional_field()


class RunDocument(BaseModel):
    """A run, from its start until its output has been read or is dropped."""

    id: str
    language: str
    state: State
    position: int | None
    created: float = Field(description="Seconds since the epoch.")
    socket: str | None = Field(description="Null after the stream has been read to its end.")
    stream: Literal["raw", "events"]
    detached: bool
    session: str | None = Field(description="Id of the session that the run is part of.")
    kept_from: int = Field(description="Offset of the oldest byte of the stream that is kept.")
    result: ResultDocument | None = None
    failure: FailureDocument | None = None


class RunsDocument(BaseModel):
    """The runs that the client may see."""

    runs: list[RunDocument]


class SessionDocument(BaseModel):
    """A session, from its opening until it is closed, or some time after it has ended by itself."""

    id: str
    language: str
    state: Literal["open", "lost", "ended"]
    created: float = Field(description="Seconds since the epoch.")
    idle: float = Field(description="Seconds without a run after which the session ends.")
    runs: int = Field(description="Number of runs that the session has been given.")
    ports: list[PortDocument] = Field(description="Published ports of the machine.")


class SessionsDocument(BaseModel):
    """The sessions that the client may see."""

    sessions: list[SessionDocument]


class ResumedDocument(BaseModel):
    """Offset at which the next connection begins."""

    socket: str
    offset: int


class LanguageDocument(BaseModel):
    """A language; ``versions`` are all installed versions except the default.

    All but ``architectures`` is about machines of the server's default architecture.
    """

    name: str
    aliases: list[str]
    suffixes: list[str]
    versions: list[str]
    built: bool = Field(description="True if the image exists; otherwise the first run builds it.")
    toolchain: str = Field(
        description="Compiler or interpreter, such as `rustc 1.63.0`; empty if unknown."
    )
    toolchains: dict[str, str] = Field(description="The toolchain of each of `versions`.")
    architectures: list[str] = Field(
        description="Architectures with an image of the default version: `amd64`, `arm64`."
    )


class LanguagesDocument(BaseModel):
    """The languages that can be run."""

    languages: list[LanguageDocument]


class HealthDocument(BaseModel):
    """State of a server that accepts runs."""

    status: Literal["ok"]
    version: str
    machines: int
    waiting: int
    store: Annotated[str, Field(description="Path of the image store.")]
