"""Models of requests: query and JSON body."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway._model.session import MAX_IDLE_SECONDS
from slipway._wire.option_models import (
    Body,
    Data,
    Flag,
    MachineBody,
    MachineQuery,
    Name,
    NetworkQuery,
    RunOptionsBody,
    RunOptionsQuery,
    make_optional_field,
)

_TEXTUAL = ConfigDict(extra="forbid", allow_inf_nan=False)
StreamName = Literal["raw", "events"]


class _Language(BaseModel):
    language: Name = make_optional_field("A language's name or alias, or NAME@VERSION.")
    version: Name = make_optional_field("The language's version, instead of @VERSION.")


class Setting(MachineQuery, NetworkQuery, _Language):
    """Language, machine and network of a run in a query. Sizes in bytes."""


class SettingBody(MachineBody, _Language):
    """Language and machine of a run or session in JSON. Sizes in bytes."""


class SessionRunQuery(RunOptionsQuery):
    """Query of ``POST /v1/sessions/{id}/run``."""

    model_config = _TEXTUAL


class SessionStartQuery(SessionRunQuery):
    """Query of ``POST /v1/sessions/{id}/start``."""

    stream: StreamName = Field("raw", description="Form of the output socket.")
    interactive: Flag = Field(False, description="Stdin follows as commands on the output socket.")
    detached: Flag = Field(False, description="The run continues when its client leaves.")


class RunQuery(SessionRunQuery, Setting):
    """Query of ``POST /v1/run``."""


class StartQuery(SessionStartQuery, Setting):
    """Query of ``POST /v1/start``."""


class ResumeQuery(BaseModel):
    """Query of ``POST /v1/runs/{id}/resume``."""

    model_config = _TEXTUAL

    offset: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        description="The byte of the stream at which the next connection begins."
    )


class NoQuery(BaseModel):
    """Query of a route without parameters."""

    model_config = _TEXTUAL


class Details(Body, RunOptionsBody):
    """Fields of a job beside its source and its language, for the HTTP API and the MCP tool."""

    stdin: str | Data = Field("", description="Standard input of the program.")

    def decode_stdin(self) -> bytes:
        """Return the program's standard input.

        Raises:
            InputError: the data is invalid.
        """
        if isinstance(self.stdin, str):
            return self.stdin.encode("utf-8")
        return self.stdin.decode("stdin")


class SessionRunBody(Details):
    """JSON body of ``POST /v1/sessions/{id}/run``: a whole job."""

    source: str = make_optional_field("The program; this or source_base64.")
    source_base64: str = make_optional_field()


class SessionStartBody(SessionRunBody):
    """JSON body of ``POST /v1/sessions/{id}/start``: a whole job."""

    stream: StreamName = "raw"
    interactive: bool = False
    detached: bool = False


class RunBody(SessionRunBody, SettingBody):
    """JSON body of ``POST /v1/run``: a whole job."""


class StartBody(SessionStartBody, SettingBody):
    """JSON body of ``POST /v1/start``: a whole job."""


class SessionBody(Body, SettingBody):
    """JSON body of ``POST /v1/sessions``."""

    idle: Annotated[float, Field(gt=0, le=MAX_IDLE_SECONDS)] = make_optional_field(
        "Seconds without a run, after which the session ends."
    )


class SignalBody(Body):
    """Body of ``POST /v1/runs/{id}/signal``."""

    signal: Annotated[int, Field(ge=1, le=64)] | Annotated[str, Field(pattern="^(SIG)?[A-Z0-9]+$")]
