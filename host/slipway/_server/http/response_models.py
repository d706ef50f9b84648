"""What the server answers, as the OpenAPI document describes it. Answers are not made of these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from slipway._wire.request_models import make_optional_field

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

    type: str = Field(description="urn:slipway: and a word for what it is.")
    title: str
    status: int
    detail: str = Field(description="What was wrong, and where.")
    hint: str = Field(description="What can be done about it; may be empty.")
    retry_after: float = make_optional_field("Seconds.")


class StartedDocument(BaseModel):
    """A run that was started or queued."""

    id: str
    socket: str = Field(description="The Unix socket that gives the output.")
    language: str
    state: State
    position: int | None = Field(description="How many are started before it, while it is queued.")


class UsageDocument(BaseModel):
    """What a phase used. Times in seconds, memory in bytes."""

    wall: float
    user: float
    system: float
    memory_peak: int
    processes_peak: int


class LimitsDocument(BaseModel):
    """What bounded a phase, by the names of the options; null is no bound but the machine's."""

    timeout: float | None
    cpu_time: float | None
    memory_limit: int | None
    processes: int | None
    open_files: int | None = Field(description="What the program may raise its own limit to.")
    file_size: int | None
    output_limit: int | None


class CapturedDocument(BaseModel):
    """One output stream; what was kept of it is text where it is UTF-8."""

    bytes: int
    dropped: int
    truncated: bool
    text: str = make_optional_field()
    base64: str = make_optional_field()


class PhaseDocument(BaseModel):
    """How one phase ended."""

    verdict: Verdict
    code: int
    signal: int
    detail: str
    usage: UsageDocument
    limits: LimitsDocument
    stdout: CapturedDocument
    stderr: CapturedDocument


class FileDocument(BaseModel):
    """A file that was asked for: its content, or why there is none."""

    path: str
    mode: int = make_optional_field()
    bytes: int = make_optional_field()
    missing: str = make_optional_field()
    text: str = make_optional_field()
    base64: str = make_optional_field()


class TimingDocument(BaseModel):
    """Where the wall-clock time went, in seconds."""

    queue: float
    prepare: float
    boot: float
    ready: float
    restore: float
    build: float
    run: float
    teardown: float


class ResultDocument(BaseModel):
    """The outcome of a run."""

    language: str
    verdict: Verdict
    summary: str
    build: PhaseDocument | None
    run: PhaseDocument | None
    files: list[FileDocument]
    timing: TimingDocument
    warnings: list[str]
    tty: bool
    machine: str
    kernel: str
    image: str
    image_digest: str
    agent: str
    memory: int
    cpus: int
    machine_reason: str
    start: str
    start_reason: str


class FailureDocument(BaseModel):
    """Why a run has no result."""

    error: str
    message: str
    hint: str
    retry_after: float = make_optional_field()


class RunDocument(BaseModel):
    """A run, from its start until its output is taken or given up."""

    id: str
    language: str
    state: State
    position: int | None
    created: float = Field(description="Seconds since the epoch.")
    socket: str | None = Field(description="None once the stream has been read to its end.")
    stream: Literal["raw", "events"]
    detached: bool
    session: str | None = Field(description="The session that it runs in.")
    kept_from: int = Field(description="The oldest byte of the stream that can be resumed at.")
    result: ResultDocument | None = None
    failure: FailureDocument | None = None


class RunsDocument(BaseModel):
    """The runs that the client may see."""

    vms: list[RunDocument]


class SessionDocument(BaseModel):
    """A session, from its opening until it is closed, or has ended for a while."""

    id: str
    language: str
    state: Literal["open", "lost", "ended"]
    created: float = Field(description="Seconds since the epoch.")
    idle: float = Field(description="Seconds without a run after which it ends.")
    runs: int = Field(description="How many runs it has been given.")


class SessionsDocument(BaseModel):
    """The sessions that the client may see."""

    sessions: list[SessionDocument]


class ResumedDocument(BaseModel):
    """Where the next connection begins."""

    socket: str
    offset: int


class LanguageDocument(BaseModel):
    """A language; ``versions`` are those with an image beside the default one."""

    name: str
    aliases: list[str]
    suffixes: list[str]
    versions: list[str]
    built: bool = Field(description="Whether its first run has no image to make.")
    toolchain: str = Field(
        description="What compiles or runs it, such as `rustc 1.63.0`; empty where it is unknown."
    )
    toolchains: dict[str, str] = Field(description="The same for each of `versions`.")


class LanguagesDocument(BaseModel):
    """What can be run."""

    languages: list[LanguageDocument]


class HealthDocument(BaseModel):
    """The server takes runs."""

    status: Literal["ok"]
    version: str
    vms: int
    waiting: int
