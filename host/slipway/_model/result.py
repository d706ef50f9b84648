"""Result of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from slipway._model.host_use import HostUse  # noqa: TC001  # type of a field
from slipway._model.network_use import NetworkUse  # noqa: TC001  # type of a field
from slipway._util.data_form import encode_data
from slipway._util.errors import SlipwayError
from slipway._util.public import public
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    from collections.abc import Mapping

# Names of missing files in a sentence, and characters of each.
MAX_SHOWN_NAMES = 3
MAX_SHOWN_LENGTH = 80


@public
class ProgramError(SlipwayError):
    """Failure of the program, raised by :meth:`Result.check`; see ``result``."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


@public
class Verdict(StrEnum):
    """Outcome of a phase, or of the whole run."""

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
    """Resources that a phase used. Times in seconds, memory in bytes."""

    wall: float
    user: float
    system: float
    memory_peak: int
    processes_peak: int


@public
@dataclass(frozen=True, slots=True)
class PhaseLimits:
    """Limits of a phase, named as the options: seconds, bytes and counts.

    None is a limit by the machine only. ``open_files`` is the hard limit, up to which the program
    may raise its own.
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
    """Output stream: the kept bytes, their total ``size``, and the bytes ``dropped``."""

    data: bytes = b""
    size: int = 0
    dropped: int = 0

    @property
    def truncated(self) -> bool:
        """True if the program wrote more than its limit."""
        return self.dropped > 0

    def record(self) -> dict[str, Any]:
        """Return the stream for JSON, as text or base64; see :func:`encode_data`."""
        return {
            "bytes": self.size,
            "dropped": self.dropped,
            "truncated": self.truncated,
            **encode_data(self.data),
        }


@public
@dataclass(frozen=True, slots=True)
class PhaseResult:
    """Result of a phase: ``code`` is the exit code, or ``signal`` the signal that ended it."""

    verdict: Verdict
    code: int
    signal: int
    usage: Usage
    stdout: Captured
    stderr: Captured
    detail: str = ""
    limits: PhaseLimits = PhaseLimits()

    def with_output(self, phase: str, captured: Mapping[tuple[str, str], bytes]) -> PhaseResult:
        """Return this result with the collected output of ``phase``."""
        return replace(
            self,
            stdout=replace(self.stdout, data=captured.get((phase, "stdout"), b"")),
            stderr=replace(self.stderr, data=captured.get((phase, "stderr"), b"")),
        )

    def record(self) -> dict[str, Any]:
        """Return the result for JSON."""
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
    """Output file: its bytes, or the reason in ``missing``."""

    path: str
    mode: int = 0
    data: bytes | None = None
    missing: str = ""


@public
@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock times of a run, in seconds, each from the end of the one before.

    ``queue`` is the time in the queue of a runtime. ``prepare`` ends when the process of the
    machine exists, ``boot`` when the guest's kernel executes the agent, ``agent`` when the agent
    has opened its port, ``ready`` when the agent has answered. The border of ``boot`` and ``agent``
    is the agent's own report. A clone has ``restore`` in place of these three, up to the answer of
    its agent. ``build`` and ``run`` include the transfer of files; ``teardown`` ends with the
    machine.
    """

    queue: float = 0.0
    prepare: float = 0.0
    boot: float = 0.0
    agent: float = 0.0
    ready: float = 0.0
    restore: float = 0.0
    build: float = 0.0
    run: float = 0.0
    teardown: float = 0.0


@public
@dataclass(frozen=True, slots=True)
class Provenance:
    """Machine, image and kernel of a run; ``machine_reason`` says why that hypervisor was chosen.

    ``arch`` is ``amd64`` or ``arm64``, ``port`` is ``virtio``, ``serial`` or ``tcp``; they are
    empty if the run was cancelled before its machine existed, like ``machine``.

    ``start`` is ``cold`` (booted), ``snapshot`` (cloned), ``warm`` (cloned with translated code),
    ``pool`` (an idle clone) or ``session`` (a machine with earlier runs). ``start_reason`` says why
    a faster start was not possible.
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
    port: str = ""
    arch: str = ""


@public
@dataclass(frozen=True, slots=True)
class Result:
    """Result of a run.

    ``build`` is None if the language has no build phase, ``run`` if the build failed, and both if
    the run was cancelled before its first phase. With ``tty`` the program had a terminal, and all
    of its output is stdout. ``network`` is None for a machine without a network, ``host`` where the
    use of the host is unknown.
    """

    language: str
    build: PhaseResult | None
    run: PhaseResult | None
    files: tuple[OutputFile, ...]
    timing: Timing
    provenance: Provenance
    warnings: tuple[str, ...] = field(default=())
    tty: bool = False
    network: NetworkUse | None = None
    host: HostUse | None = None

    @property
    def verdict(self) -> Verdict:
        """Verdict of the program, or ``build_failed``."""
        if self.run is not None:
            return self.run.verdict
        if self.build is None or self.build.verdict in {Verdict.OK, Verdict.CANCELLED}:
            return Verdict.CANCELLED
        return Verdict.BUILD_FAILED

    @property
    def ok(self) -> bool:
        """True if the program ended with exit code 0."""
        return self.verdict is Verdict.OK

    @property
    def missing(self) -> tuple[str, ...]:
        """Paths of missing output files."""
        return tuple(file.path for file in self.files if file.data is None)

    @property
    def code(self) -> int:
        """Exit code of the last phase."""
        return self._last.code

    @property
    def signal(self) -> int:
        """Signal that ended the last phase, or 0."""
        return self._last.signal

    @property
    def stdout(self) -> str:
        """Stdout of the program; bytes that are not UTF-8 are replaced."""
        return self.run.stdout.data.decode("utf-8", "replace") if self.run else ""

    @property
    def stderr(self) -> str:
        """Stderr of the program, or of the failed build."""
        return self._last.stderr.data.decode("utf-8", "replace")

    @property
    def _last(self) -> PhaseResult:
        return self.run or self.build or _NOT_BEGUN

    def with_output(self, captured: Mapping[tuple[str, str], bytes]) -> Result:
        """Return this result with the collected output, by phase and stream."""
        return replace(
            self,
            build=self.build and self.build.with_output("build", captured),
            run=self.run and self.run.with_output("run", captured),
        )

    def check(self) -> Result:
        """Return this result if the program succeeded.

        Raises:
            ProgramError: the program failed.
        """
        if not self.ok:
            raise ProgramError(self.summary(), self)
        return self

    def summary(self) -> str:
        """Return the outcome as one sentence for people."""
        last = self._last
        if self.verdict is Verdict.CANCELLED and last.verdict is not Verdict.CANCELLED:
            return "the run was cancelled after its build"
        if last is _NOT_BEGUN:
            return "the run was cancelled before it began"
        subject = "the program" if self.run is not None else "the build"
        how = {
            Verdict.OK: f"succeeded{self._describe_missing()}",
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

    def _describe_missing(self) -> str:
        """Return the missing output files, as the end of a sentence."""
        if not self.missing:
            return ""
        names = ", ".join(
            to_plain_line(path[:MAX_SHOWN_LENGTH]) for path in self.missing[:MAX_SHOWN_NAMES]
        )
        more = len(self.missing) - MAX_SHOWN_NAMES
        return f", but did not write {names}" + (f" and {more} more" if more > 0 else "")

    def record(self) -> dict[str, Any]:
        """Return the result for JSON."""
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
            "network": self.network.record() if self.network else None,
            "host": asdict(self.host) if self.host else None,
            **asdict(self.provenance),
        }
