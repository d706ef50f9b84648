"""Interface of the behaviour suite to the ways to run programs, and the outcome of programs."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from slipway._model.input_file import InputFile

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._model.result import OutputFile, PhaseResult, Result
    from slipway_initramfs.languages.language import Language

# Seconds. A guest that a loaded host emulates takes long, and counts as CPU time what its host has
# spent elsewhere. Nothing waits for these limits but a test that fails.
PATIENCE = {"timeout": 120.0, "build_timeout": 240.0, "cpu_time": 240.0}


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that is known of a job that ended."""

    build: PhaseResult | None
    run: PhaseResult | None
    files: dict[str, OutputFile] = field(repr=False)

    @classmethod
    def of(cls, result: Result) -> Outcome:
        """The outcome in ``result``."""
        return cls(result.build, result.run, {file.path: file for file in result.files})

    @property
    def program(self) -> PhaseResult:
        """The run phase, which must exist."""
        assert self.run is not None, f"the build did not get that far: {self.build}"
        return self.run

    @property
    def stdout(self) -> bytes:
        """The kept stdout of the program."""
        return self.program.stdout.data

    @property
    def stderr(self) -> bytes:
        """The kept stderr of the program."""
        return self.program.stderr.data


class Job(Protocol):
    """A program that runs, with an open stdin."""

    def until(self, text: bytes) -> None:
        """Wait until the program has written ``text`` to stdout; an earlier end is a failure."""

    def write(self, data: bytes) -> None:
        """More for the program's stdin."""

    def end_input(self) -> None:
        """End of file on the program's stdin."""

    def outcome(self) -> Outcome:
        """Wait for the end."""


class Runner(abc.ABC):
    """Runner of programs of a language, in turn."""

    language: Language
    # True if each byte to or from the agent is an exit of the machine, or two.
    has_slow_port = False

    def __init__(self) -> None:
        self._usual_seconds: float | None = None

    @abc.abstractmethod
    def begin(self, source: str | bytes | Path, *arguments: str, **options: Any) -> Job:
        """Start a program: text, file, or a directory with ``main.*`` and further files.

        ``options`` are fields of :class:`slipway.Options` that hold for the job.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Leave nothing behind."""

    def run(
        self, source: str | bytes | Path, *arguments: str, stdin: bytes = b"", **options: Any
    ) -> Outcome:
        """Run a program to the end; see :meth:`begin`."""
        outcome = self._run(source, arguments, stdin, options)
        if self._usual_seconds is None and outcome.run is not None:
            self._usual_seconds = outcome.run.usage.wall
        return outcome

    def usual_seconds(self, hello: str | Path) -> float:
        """Return the seconds of the first program, ``hello`` if this is the first."""
        if self._usual_seconds is None:
            self._usual_seconds = self.run(hello).program.usage.wall
        return self._usual_seconds

    @abc.abstractmethod
    def _run(
        self,
        source: str | bytes | Path,
        arguments: tuple[str, ...],
        stdin: bytes,
        options: dict[str, Any],
    ) -> Outcome:
        """Run a program to the end."""


def load(source: str | bytes | Path) -> tuple[bytes, tuple[InputFile, ...]]:
    """Return a program's text, and the files beside the program."""
    if isinstance(source, str | bytes):
        return source.encode() if isinstance(source, str) else source, ()
    if source.is_file():
        return source.read_bytes(), ()
    # Not what Python caches there.
    files = [path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    main, *beside = sorted(files, key=lambda path: (path.stem != "main", path.name))
    return main.read_bytes(), tuple(
        InputFile(str(path.relative_to(source)), path.read_bytes()) for path in beside
    )


def patient(
    arguments: tuple[str, ...], beside: tuple[InputFile, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """All of a job's options: those of the test, and time enough."""
    files = (*beside, *options.get("files", ()))
    return {**PATIENCE, **options, "arguments": arguments, "files": files}
