"""Arguments and results of the tools; their JSON schemas describe them to a model."""

# Not "from __future__ import annotations": pydantic reads the annotations when a class is made.
import base64
import codecs
from typing import Annotated

from pydantic import BaseModel, Field

from slipway._mcp.excerpt import Excerpt
from slipway._model.network import MAX_RULES, Network
from slipway._model.result import OutputFile, Result
from slipway._util.units import KIB
from slipway._wire.option_models import MachineShape, Name
from slipway._wire.request_models import Details

# All fetched files together.
FILES_SHOWN = 32 * KIB
_DECODER = codecs.getincrementaldecoder("utf-8")


class RunCodeArguments(Details, MachineShape):
    """Arguments of ``run_code``. Times in seconds, sizes in bytes."""

    language: Name = Field(
        description="A name from list_languages, e.g. python, or rust@1.80 for a version."
    )
    source: str = Field(description="The whole program.")
    network: Annotated[list[str], Field(max_length=MAX_RULES)] = Field(
        [],
        description="Destinations that the program may connect to, by default none: pypi, npm, "
        "crates, go or debian for a registry, api.example.com:443, *.example.com. Only those that "
        "the user permits are possible.",
    )

    def read_network(self) -> Network | None:
        """Return the value of the option ``network``.

        Raises:
            InputError: a rule is invalid.
        """
        return Network(allow=tuple(self.network)) if self.network else None


class FetchedFile(BaseModel):
    """A requested output file: its content, or the reason why it is missing."""

    path: str
    bytes: int = 0
    text: str | None = None
    base64: str | None = None
    truncated: bool = Field(default=False, description="Only the beginning of the file is shown.")
    missing: str = Field(default="", description="The reason why the file is missing.")


class Outcome(BaseModel):
    """The result of the program."""

    verdict: str = Field(
        description="ok, failed (exit code not 0), signaled, timed_out, cpu_exceeded, "
        "memory_exceeded, output_exceeded, build_failed, cancelled or internal_error."
    )
    summary: str = Field(description="The verdict as a sentence.")
    exit_code: int | None = Field(description="null if a signal ended it or it did not run.")
    signal: int = Field(description="The signal that ended it, or 0.")
    stdout: str
    stderr: str
    build_output: str = Field(
        description="Output of the compiler; '' for languages without a compiler."
    )
    truncated: list[str] = Field(
        description="Those of stdout, stderr and build_output that are not complete. They have the "
        "first 24 and the last 8 KiB, and the gap is marked."
    )
    files: list[FetchedFile]
    seconds: float = Field(description="The program's wall-clock time.")
    denied: list[str] = Field(
        default=[], description="Destinations that the program tried and that were not allowed."
    )


class Languages(BaseModel):
    """Result of ``list_languages``."""

    languages: list["LanguageForm"]


class LanguageForm(BaseModel):
    """A language that can be run."""

    name: str
    aliases: list[str]
    versions: list[str] = Field(description="Versions beside the default: run NAME@VERSION.")
    ready: bool = Field(description="False: the first run takes minutes, to build the image.")
    toolchain: str = Field(description="Such as rustc 1.63.0; empty if unknown.")
    toolchains: dict[str, str] = Field(description="The toolchain of each of the versions.")
    architectures: list[str] = Field(
        description="Values of arch with which the first run has no image to build."
    )


def build_outcome(result: Result, output: dict[str, Excerpt]) -> Outcome:
    """Return ``result`` with excerpts of ``stdout``, ``stderr`` and ``build_output``."""
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
        stdout=output["stdout"].render(),
        stderr=output["stderr"].render(),
        build_output=output["build_output"].render(),
        truncated=[name for name in dropped if dropped[name] or output[name].truncated],
        files=_build_files(result.files),
        seconds=round(run.usage.wall, 3) if run is not None else 0.0,
        denied=[str(each) for each in result.network.denied] if result.network else [],
    )


def _build_files(files: tuple[OutputFile, ...]) -> list[FetchedFile]:
    """Return the beginnings of ``files``, 32 KiB together."""
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
            # A character that is cut at the end of the part is left out.
            form.text = _DECODER().decode(part, final=not form.truncated)
        except UnicodeDecodeError:
            form.base64 = base64.b64encode(part).decode("ascii")
        shown.append(form)
    return shown
