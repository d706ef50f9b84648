"""What became of a run."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from slipway._model.errors import SlipwayError
from slipway._util.public import public
from slipway._util.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of files that are missing, in a sentence.
MAX_SHOWN_NAMES = 3
MAX_SHOWN_LENGTH = 80


@public
class ProgramError(SlipwayError):
    """The program did not end well; ``result`` holds all that is known."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


@public
class Verdict(StrEnum):
    """How a phase, or the run as a whole, ended."""

    OK = "ok"
    FAILED = "failed"
    SIGNALED = "signaled"
    TIMED_OUT = "timed_out"
    CPU_EXCEEDED = "cpu_exceeded"
    MEMORY_EXCEEDED = "memory_exceeded"
    OUTPUT_EXCEEDED = "output_exceeded"
    CANCELLED = "cancelled"
    INTERNAL_ERROR = "internal_error"
    BUILD_FAILED = "build_failed"


@public
@dataclass(frozen=True, slots=True)
class Usage:
    """What a phase used. Times in seconds, memory in bytes."""

    wall: float
    user: float
    system: float
    memory_peak: int
    processes_peak: int


@public
@dataclass(frozen=True, slots=True)
class PhaseLimits:
    """What bounded a phase, by the names of the options: seconds, bytes and counts.

    None is no bound but the machine's. ``open_files`` is what the program may raise its own limit
    to.
    """

    timeout: float | None = None
    cpu_time: float | None = None
    memory_limit: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_size: int | None = None
    output_limit: int | None = None


@public
@dataclass(frozen=True, slots=True)
class Captured:
    """One output stream: the bytes kept, how many there were, how many were over the limit."""

    data: bytes = b""
    size: int = 0
    dropped: int = 0

    @property
    def truncated(self) -> bool:
        """Whether the program wrote more than its limit."""
        return self.dropped > 0

    def record(self) -> dict[str, Any]:
        """For JSON: text where it is UTF-8, base64 where it is not."""
        record: dict[str, Any] = {
            "bytes": self.size,
            "dropped": self.dropped,
            "truncated": self.truncated,
        }
        try:
            record["text"] = self.data.decode("utf-8")
        except UnicodeDecodeError:
            record["base64"] = base64.b64encode(self.data).decode("ascii")
        return record


@public
@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One phase. ``signal`` is 0 unless a signal ended the program, and then ``code`` is 0."""

    verdict: Verdict
    code: int
    signal: int
    usage: Usage
    stdout: Captured
    stderr: Captured
    detail: str = ""
    limits: PhaseLimits = PhaseLimits()

    def with_output(self, phase: str, captured: Mapping[tuple[str, str], bytes]) -> PhaseResult:
        """This result with the output of ``phase`` that was collected."""
        return replace(
            self,
            stdout=replace(self.stdout, data=captured.get((phase, "stdout"), b"")),
            stderr=replace(self.stderr, data=captured.get((phase, "stderr"), b"")),
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "verdict": str(self.verdict),
            "code": self.code,
            "signal": self.signal,
            "detail": self.detail,
            "usage": asdict(self.usage),
            "limits": asdict(self.limits),
            "stdout": self.stdout.record(),
            "stderr": self.stderr.record(),
        }


_NOT_BEGUN = PhaseResult(
    Verdict.CANCELLED, 0, 0, Usage(0.0, 0.0, 0.0, 0, 0), Captured(), Captured()
)


@public
@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file fetched back: its bytes, or why there are none."""

    path: str
    mode: int = 0
    data: bytes | None = None
    missing: str = ""


@public
@dataclass(frozen=True, slots=True)
class Timing:
    """Where the wall-clock time went, in seconds, each from the end of the one before.

    ``queue`` is what a run waits for room in a runtime, ``prepare`` ends when the machine's process
    exists, ``boot`` when the agent has opened its port, ``ready`` when it has answered. A machine
    that did not boot has ``restore`` instead of these two, which ends when the agent of the clone
    has answered. ``build`` and ``run`` include the transfer of what they need; ``teardown`` ends
    when nothing of the machine is left.
    """

    queue: float = 0.0
    prepare: float = 0.0
    boot: float = 0.0
    ready: float = 0.0
    restore: float = 0.0
    build: float = 0.0
    run: float = 0.0
    teardown: float = 0.0


@public
@dataclass(frozen=True, slots=True)
class Provenance:
    """What the run ran on; ``machine_reason`` says why it was that machine.

    ``start`` is where the machine came from: ``cold`` it booted, ``snapshot`` it was cloned,
    ``pool`` the clone waited already, ``session`` it has had runs before. ``start_reason`` says why
    it was not faster, where there is something to say.
    """

    machine: str
    kernel: str
    image: str
    image_digest: str
    agent: str
    memory: int
    cpus: int
    machine_reason: str = ""
    start: str = "cold"
    start_reason: str = ""


@public
@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one run.

    ``build`` is None where the language has no build phase; so is ``run`` where the build failed.
    Both are None where the run was cancelled before anything of it began. With ``tty`` the program
    had a terminal, and all that it wrote there is its stdout.
    """

    language: str
    build: PhaseResult | None
    run: PhaseResult | None
    files: tuple[OutputFile, ...]
    timing: Timing
    provenance: Provenance
    warnings: tuple[str, ...] = field(default=())
    tty: bool = False

    @property
    def verdict(self) -> Verdict:
        """The run's verdict, or ``build_failed`` where the build did not get that far."""
        if self.run is not None:
            return self.run.verdict
        if self.build is None or self.build.verdict in {Verdict.OK, Verdict.CANCELLED}:
            return Verdict.CANCELLED
        return Verdict.BUILD_FAILED

    @property
    def ok(self) -> bool:
        """Whether the program ended with exit code 0."""
        return self.verdict is Verdict.OK

    @property
    def missing(self) -> tuple[str, ...]:
        """The paths of the files that were asked for and are not there."""
        return tuple(file.path for file in self.files if file.data is None)

    @property
    def code(self) -> int:
        """The exit code of the last phase that ran."""
        return self._last.code

    @property
    def signal(self) -> int:
        """The signal that ended the last phase that ran, or 0."""
        return self._last.signal

    @property
    def stdout(self) -> str:
        """What the program wrote to stdout; bytes that are not UTF-8 are replaced."""
        return self.run.stdout.data.decode("utf-8", "replace") if self.run else ""

    @property
    def stderr(self) -> str:
        """What the program, or else the failed build, wrote to stderr."""
        return self._last.stderr.data.decode("utf-8", "replace")

    @property
    def _last(self) -> PhaseResult:
        return self.run or self.build or _NOT_BEGUN

    def with_output(self, captured: Mapping[tuple[str, str], bytes]) -> Result:
        """This result with the output that was collected, by phase and stream."""
        return replace(
            self,
            build=self.build and self.build.with_output("build", captured),
            run=self.run and self.run.with_output("run", captured),
        )

    def check(self) -> Result:
        """This result, if the program ended well.

        Raises:
            ProgramError: it did not.
        """
        if not self.ok:
            raise ProgramError(self.summary(), self)
        return self

    def summary(self) -> str:
        """How it ended, as one sentence for people."""
        last = self._last
        if self.verdict is Verdict.CANCELLED and last.verdict is not Verdict.CANCELLED:
            return "the run was cancelled after its build"
        if last is _NOT_BEGUN:
            return "the run was cancelled before it began"
        subject = "the program" if self.run is not None else "the build"
        how = {
            Verdict.OK: f"ended well{self._lacking()}",
            Verdict.FAILED: f"ended with exit code {last.code}",
            Verdict.SIGNALED: f"was ended by signal {last.signal}",
            Verdict.TIMED_OUT: "reached its time limit",
            Verdict.CPU_EXCEEDED: "reached its CPU time limit",
            Verdict.MEMORY_EXCEEDED: "reached its memory limit",
            Verdict.OUTPUT_EXCEEDED: "wrote more than its output limit",
            Verdict.CANCELLED: "was cancelled",
            Verdict.INTERNAL_ERROR: "could not be run",
        }[last.verdict]
        return f"{subject} {how}" + (f": {last.detail}" if last.detail else "")

    def _lacking(self) -> str:
        """What a program that ended well did not leave, as the end of a sentence."""
        if not self.missing:
            return ""
        names = ", ".join(plain(path[:MAX_SHOWN_LENGTH]) for path in self.missing[:MAX_SHOWN_NAMES])
        more = len(self.missing) - MAX_SHOWN_NAMES
        return f", but did not leave {names}" + (f" and {more} more" if more > 0 else "")

    def record(self) -> dict[str, Any]:
        """The whole result for JSON."""
        return {
            "language": self.language,
            "verdict": str(self.verdict),
            "summary": self.summary(),
            "build": self.build.record() if self.build else None,
            "run": self.run.record() if self.run else None,
            "files": [
                {"path": f.path, "bytes": len(f.data)}
                if f.data is not None
                else {"path": f.path, "missing": f.missing}
                for f in self.files
            ],
            "timing": asdict(self.timing),
            "warnings": list(self.warnings),
            "tty": self.tty,
            **asdict(self.provenance),
        }
