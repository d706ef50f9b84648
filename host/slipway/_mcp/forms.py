"""What the tools take and give, as their JSON schemas tell it to a model."""

# Not "from __future__ import annotations": pydantic reads the annotations when a class is made.
import base64
import binascii
import codecs
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipway._errors import InputError
from slipway._mcp.excerpt import KIB, Excerpt
from slipway._request import InputFile
from slipway._result import OutputFile, Result

# All fetched files together.
FILES_SHOWN = 32 * KIB
_LIMITS = (
    "timeout", "build_timeout", "cpu_time", "build_cpu_time", "memory_limit", "build_memory_limit",
    "processes", "open_files", "file_size",
)  # fmt: skip
_DECODER = codecs.getincrementaldecoder("utf-8")


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GivenFile(_Given):
    """A file for the program: its content as text, or as base64."""

    path: str = Field(description="Relative to the program's working directory.")
    text: str | None = Field(default=None, description="The content, as text.")
    base64: str | None = Field(default=None, description="The content, where it is not text.")

    def file(self) -> InputFile:
        """It, decoded; raises InputError."""
        if (self.text is None) == (self.base64 is None):
            raise InputError(
                f"the file {self.path!r:.80} has not one of text and base64",
                "Give its content as text, or as base64 where it is not text.",
            )
        if self.text is not None:
            return InputFile(self.path, self.text.encode("utf-8", "surrogatepass"))
        assert self.base64 is not None
        try:
            return InputFile(self.path, base64.b64decode(self.base64, validate=True))
        except (binascii.Error, ValueError):
            raise InputError(f"the content of the file {self.path!r:.80} is not base64") from None


class Job(_Given):
    """The arguments of ``run_code``."""

    language: str = Field(
        description="A name that list_languages tells, e.g. python, or rust@1.80 for a version."
    )
    source: str = Field(description="The whole program.")
    stdin: str = Field(default="", description="What it reads on its standard input.")
    arguments: list[str] = Field(default=[], description="Its command line arguments.")
    environment: dict[str, str] = Field(default={}, description="Environment variables.")
    files: list[GivenFile] = Field(default=[], description="Files in its working directory.")
    outputs: list[str] = Field(
        default=[], description="Paths of files that it writes and that are to be given back."
    )
    timeout: float | None = Field(default=None, description="Its wall-clock time, in seconds.")
    build_timeout: float | None = Field(default=None, description="The compiler's, in seconds.")
    cpu_time: float | None = Field(default=None, description="Its CPU time, in seconds.")
    build_cpu_time: float | None = Field(default=None, description="The compiler's, in seconds.")
    memory_limit: int | None = Field(default=None, description="Its memory, in bytes.")
    build_memory_limit: int | None = Field(default=None, description="The compiler's, in bytes.")
    processes: int | None = Field(default=None, description="Its processes and threads at once.")
    open_files: int | None = Field(default=None, description="What it may have open at once.")
    file_size: int | None = Field(default=None, description="Of a file it writes, in bytes.")
    tty: bool = Field(
        default=False,
        description="Run it in a terminal: what it wrote before a crash is there, a prompt comes "
        "before its input, stdin is echoed, and all is in stdout.",
    )

    def options(self) -> dict[str, Any]:
        """As the fields of :class:`slipway.Options`; raises InputError."""
        return {
            "arguments": tuple(self.arguments),
            "environment": tuple(self.environment.items()),
            "files": tuple(file.file() for file in self.files),
            "outputs": tuple(self.outputs),
            **{name: getattr(self, name) for name in _LIMITS},
            "tty": self.tty,
        }


class FetchedFile(BaseModel):
    """A file that was asked for: its content, or why there is none."""

    path: str
    bytes: int = 0
    text: str | None = None
    base64: str | None = None
    truncated: bool = Field(default=False, description="It is longer than what is shown of it.")
    missing: str = Field(default="", description="Why there is no such file.")


class Outcome(BaseModel):
    """What became of the program."""

    verdict: str = Field(
        description="ok, failed (exit code not 0), signaled, timed_out, cpu_exceeded, "
        "memory_exceeded, output_exceeded, build_failed, cancelled or internal_error."
    )
    summary: str = Field(description="The verdict as a sentence.")
    exit_code: int | None = Field(description="null where a signal ended it or it did not run.")
    signal: int = Field(description="The signal that ended it, or 0.")
    stdout: str
    stderr: str
    build_output: str = Field(description="What the compiler wrote; '' where there is none.")
    truncated: list[str] = Field(
        description="Which of stdout, stderr and build_output are not whole. Of each the first 24 "
        "and the last 8 KiB are given, and the gap is marked."
    )
    files: list[FetchedFile]
    seconds: float = Field(description="The program's wall-clock time.")


class Languages(BaseModel):
    """What ``list_languages`` gives."""

    languages: list["LanguageForm"]


class LanguageForm(BaseModel):
    """A language that can be run."""

    name: str
    aliases: list[str]
    versions: list[str] = Field(description="Others than the default one: run NAME@VERSION.")
    ready: bool = Field(description="False: its first run takes minutes, to make its image.")
    toolchain: str = Field(description="Such as rustc 1.63.0; empty where it is unknown.")
    toolchains: dict[str, str] = Field(description="The same for each of the versions.")


def outcome(result: Result, heard: dict[str, Excerpt]) -> Outcome:
    """``result`` with what was heard of ``stdout``, ``stderr`` and ``build_output``."""
    run = result.run
    dropped = {
        "stdout": run is not None and run.stdout.truncated,
        "stderr": run is not None and run.stderr.truncated,
        "build_output": result.build is not None
        and (result.build.stdout.truncated or result.build.stderr.truncated),
    }
    return Outcome(
        verdict=str(result.verdict),
        summary=result.summary(),
        exit_code=run.code if run is not None and not run.signal else None,
        signal=run.signal if run is not None else 0,
        stdout=heard["stdout"].text(),
        stderr=heard["stderr"].text(),
        build_output=heard["build_output"].text(),
        truncated=[name for name in dropped if dropped[name] or heard[name].truncated],
        files=_shown(result.files),
        seconds=round(run.usage.wall, 3) if run is not None else 0.0,
    )


def _shown(files: tuple[OutputFile, ...]) -> list[FetchedFile]:
    room = FILES_SHOWN
    shown = []
    for file in files:
        if file.data is None:
            shown.append(FetchedFile(path=file.path, missing=file.missing))
            continue
        form = FetchedFile(path=file.path, bytes=len(file.data), truncated=len(file.data) > room)
        part = file.data[:room]
        room -= len(part)
        try:
            # A character that is cut at the end of the part is left out, and no error.
            form.text = _DECODER().decode(part, final=not form.truncated)
        except UnicodeDecodeError:
            form.base64 = base64.b64encode(part).decode("ascii")
        shown.append(form)
    return shown
