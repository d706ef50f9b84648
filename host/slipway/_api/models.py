"""What a request may ask for: the forms of its query and of its JSON body."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from slipway._request import (
    MAX_ARGUMENTS,
    MAX_CHARACTERS,
    MAX_CPUS,
    MAX_FILES,
    MAX_MEMORY,
    MAX_OUTPUTS,
    MAX_PROCESSES,
    MAX_SECONDS,
    MAX_VARIABLES,
)
from slipway._sessions import MAX_IDLE_SECONDS

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_TEXTUAL = ConfigDict(extra="forbid", allow_inf_nan=False)


def absent(description: str | None = None) -> Any:
    """A field that need not be there. It is None then; null itself cannot be sent."""
    return Field(None, description=description)


def _flag(value: object) -> object:
    if value in {"true", "false"}:
        return value == "true"
    raise ValueError("must be true or false")


Flag = Annotated[bool, BeforeValidator(_flag)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Size = Annotated[int, Field(gt=0, le=MAX_MEMORY)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Machine = Literal["auto", "kvm", "qemu"]
StreamName = Literal["raw", "events"]


class Limits(BaseModel):
    """What bounds one run. Times in seconds, sizes in bytes."""

    timeout: Seconds = absent("Wall-clock time of the program.")
    build_timeout: Seconds = absent("Wall-clock time of the build.")
    cpu_time: Seconds = absent("CPU time of the program.")
    memory_limit: Size = absent("The program's share of the machine's memory.")
    processes: Annotated[int, Field(gt=0, le=MAX_PROCESSES)] = absent(
        "Processes and threads of the program."
    )
    output_limit: Size = absent("Of each of stdout and stderr.")


class Setting(BaseModel):
    """What a machine is made for. Sizes in bytes."""

    language: Name = absent("A language's name or alias, or NAME@VERSION.")
    version: Name = absent("The language's version, instead of @VERSION.")
    memory: Size = absent("Of the machine.")
    cpus: Annotated[int, Field(ge=1, le=MAX_CPUS)] = absent("Of the machine.")
    machine: Machine = absent("Which machine; auto where it is left out.")


class SessionRunQuery(Limits):
    """The query of ``POST /v1/sessions/{id}/run``."""

    model_config = _TEXTUAL

    kill_on_output: Flag = Field(False, description="End a program that passes its output limit.")
    tty: Flag = Field(False, description="The program has a terminal of 24 rows and 80 columns.")


class SessionStartQuery(SessionRunQuery):
    """The query of ``POST /v1/sessions/{id}/vms``."""

    stream: StreamName = Field("raw", description="What the output socket gives.")
    interactive: Flag = Field(False, description="Stdin comes as commands on the output socket.")
    detached: Flag = Field(False, description="Goes on when its client leaves.")


class RunQuery(SessionRunQuery, Setting):
    """The query of ``POST /v1/run``."""


class StartQuery(SessionStartQuery, Setting):
    """The query of ``POST /v1/start``."""


class ResumeQuery(BaseModel):
    """The query of ``POST /v1/vms/{id}/resume``."""

    model_config = _TEXTUAL

    offset: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        description="The byte of the stream at which the next connection begins."
    )


class NoQuery(BaseModel):
    """The query of a route that has none."""

    model_config = _TEXTUAL


class TerminalSize(BaseModel):
    """The size of a program's terminal, in characters; also the body of a resize."""

    model_config = _STRICT

    rows: Annotated[int, Field(ge=1, le=MAX_CHARACTERS)]
    columns: Annotated[int, Field(ge=1, le=MAX_CHARACTERS)]


class Data(BaseModel):
    """Bytes: ``text`` where they are UTF-8, else ``base64`` (RFC 4648); one of the two."""

    model_config = _STRICT

    text: str = absent()
    base64: str = absent()


class File(Data):
    """A file for the working directory."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644


class SessionRunBody(Limits):
    """The JSON body of ``POST /v1/sessions/{id}/run``: a whole job."""

    model_config = _STRICT

    kill_on_output: bool = False
    tty: bool | TerminalSize = Field(
        False, description="The program has a terminal; true is one of 24 rows and 80 columns."
    )
    source: str = absent("The program; this or source_base64.")
    source_base64: str = absent()
    arguments: Annotated[list[str], Field(max_length=MAX_ARGUMENTS)] = []
    environment: Annotated[dict[str, str], Field(max_length=MAX_VARIABLES)] = {}
    files: Annotated[list[File], Field(max_length=MAX_FILES)] = []
    outputs: Annotated[list[str], Field(max_length=MAX_OUTPUTS)] = Field(
        [], description="Paths of files that are wanted back."
    )
    stdin: str | Data = ""


class SessionStartBody(SessionRunBody):
    """The JSON body of ``POST /v1/sessions/{id}/vms``: a whole job."""

    stream: StreamName = "raw"
    interactive: bool = False
    detached: bool = False


class RunBody(SessionRunBody, Setting):
    """The JSON body of ``POST /v1/run``: a whole job."""


class StartBody(SessionStartBody, Setting):
    """The JSON body of ``POST /v1/start``: a whole job."""


class SessionBody(Setting):
    """The JSON body of ``POST /v1/sessions``."""

    model_config = _STRICT

    idle: Annotated[float, Field(gt=0, le=MAX_IDLE_SECONDS)] = absent(
        "Without a run for so long, the session ends by itself."
    )


class SignalBody(BaseModel):
    """The body of ``POST /v1/vms/{id}/signal``."""

    model_config = _STRICT

    signal: Annotated[int, Field(ge=1, le=64)] | Annotated[str, Field(pattern="^(SIG)?[A-Z0-9]+$")]
