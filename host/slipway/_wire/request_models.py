"""Models of requests: query and JSON body."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    model_validator,
)

from slipway._model.bounds import MAX_ARGUMENTS, MAX_FILES, MAX_OUTPUTS, MAX_VARIABLES
from slipway._model.options import MACHINE_OPTIONS, MAX_CHARACTERS, OPTIONS, Tty
from slipway._model.session import MAX_IDLE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway._model.option import Option

_TEXTUAL = ConfigDict(extra="forbid", allow_inf_nan=False)


def make_optional_field(description: str | None = None) -> Any:
    """Return an optional field, None by default."""
    return Field(None, description=description)


def _parse_flag(value: object, info: ValidationInfo) -> object:
    """Return a flag of a query, which is text; a strict model takes bool only."""
    if info.config is not None and info.config.get("strict"):
        return value
    if value in {"true", "false"}:
        return value == "true"
    raise ValueError("must be true or false")


def _describe_nulls(schema: dict[str, Any]) -> None:
    """Allow null for optional fields in a schema, and describe defaults in words.

    The schema has no ``default``: some generated clients send each default, and others require
    their users to pass it.
    """
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        if name in required:
            continue
        describe_default(field)
        words = {key: field.pop(key) for key in ("title", "description") if key in field}
        kinds = field.pop("anyOf", None) or [dict(field)]
        field.clear()
        field |= {"anyOf": [*kinds, {"type": "null"}], **words}


def describe_default(field: dict[str, Any]) -> None:
    """Move the default of a field into its description."""
    default = field.pop("default", None)
    if default not in (None, "", [], {}):
        text = json.dumps(default) if not isinstance(default, str) else default
        field["description"] = f"{field.get('description', '')} Default: {text}.".strip()


class Body(BaseModel):
    """Body in JSON. A field with null counts as missing."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=_describe_nulls
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: part for name, part in value.items() if part is not None}


Flag = Annotated[bool, BeforeValidator(_parse_flag)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
StreamName = Literal["raw", "events"]


def _make_field(option: Option) -> tuple[Any, Any]:
    """Return the type and the default of the field for a scalar option."""
    if option.is_flag:
        return Flag, Field(False, description=option.sentence)
    kind: Any = Literal[option.choices] if option.choices else option.type
    if bounds := option.bounds:
        least: dict[str, Any] = {"gt" if bounds.above else "ge": bounds.least}
        kind = Annotated[kind, Field(**least, le=bounds.most)]
    default = "" if option.default is None else f" Default: {option.default}."
    return kind, make_optional_field(option.sentence + default)


def _make_model(name: str, summary: str, names: Iterable[str]) -> Any:
    """Return a model with a field for each of the named options."""
    fields: dict[str, Any] = {option: _make_field(OPTIONS[option]) for option in names}
    return create_model(name, __doc__=summary, **fields)


_SCALARS = [name for name, option in OPTIONS.items() if option.is_scalar and not option.local]
_OF_MACHINE = [name for name in _SCALARS if name in MACHINE_OPTIONS]

if TYPE_CHECKING:
    # Their fields come from the declarations of the options.
    class Limits(BaseModel): ...

    class MachineSize(BaseModel): ...

    class _Machine(BaseModel): ...
else:
    Limits = _make_model(
        "Limits",
        "Limits of one run. Times in seconds, sizes in bytes.",
        (name for name in _SCALARS if name not in MACHINE_OPTIONS),
    )
    MachineSize = _make_model(
        "MachineSize",
        "Size of a machine. Memory in bytes.",
        (name for name in _OF_MACHINE if OPTIONS[name].bounds),
    )
    _Machine = _make_model("_Machine", "Size and hypervisor of a machine.", _OF_MACHINE)


class _Language(BaseModel):
    language: Name = make_optional_field("A language's name or alias, or NAME@VERSION.")
    version: Name = make_optional_field("The language's version, instead of @VERSION.")


class Setting(_Machine, _Language):
    """Language and machine of a run or session. Sizes in bytes."""


class SessionRunQuery(Limits):
    """Query of ``POST /v1/sessions/{id}/run``."""

    model_config = _TEXTUAL

    tty: Flag = Field(False, description="Run the program in a terminal of 24 rows and 80 columns.")


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


class TerminalSize(Body):
    """Size of a program's terminal, in characters; also the body of a resize."""

    rows: Annotated[int, Field(ge=1, le=MAX_CHARACTERS)]
    columns: Annotated[int, Field(ge=1, le=MAX_CHARACTERS)]

    def to_tty(self) -> Tty:
        """Return the value of the option ``tty``."""
        return Tty(self.rows, self.columns)


class Data(Body):
    """Bytes: either ``text`` in UTF-8 or ``base64`` (RFC 4648)."""

    text: str = make_optional_field()
    base64: str = make_optional_field()


class File(Data):
    """Input file for the working directory."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644


class Details(Body, Limits):
    """Fields of a job beside its source and its language, for the HTTP API and the MCP tool."""

    tty: bool | TerminalSize = Field(
        False,
        description="Run the program in a terminal, of 24 rows and 80 columns if true. Output "
        "before a crash is kept, prompts come before their input, stdin is echoed, and all output "
        "is stdout.",
    )
    arguments: Annotated[list[str], Field(max_length=MAX_ARGUMENTS)] = Field(
        [], description="Command line arguments of the program."
    )
    environment: Annotated[dict[str, str], Field(max_length=MAX_VARIABLES)] = Field(
        {}, description="Environment variables of build and program."
    )
    files: Annotated[list[File], Field(max_length=MAX_FILES)] = Field(
        [], description="Files for the working directory, each with text or base64."
    )
    outputs: Annotated[list[str], Field(max_length=MAX_OUTPUTS)] = Field(
        [], description="Paths of files to fetch from the working directory after the run."
    )
    stdin: str | Data = Field("", description="Standard input of the program.")


class SessionRunBody(Details):
    """JSON body of ``POST /v1/sessions/{id}/run``: a whole job."""

    source: str = make_optional_field("The program; this or source_base64.")
    source_base64: str = make_optional_field()


class SessionStartBody(SessionRunBody):
    """JSON body of ``POST /v1/sessions/{id}/start``: a whole job."""

    stream: StreamName = "raw"
    interactive: bool = False
    detached: bool = False


class RunBody(SessionRunBody, Setting):
    """JSON body of ``POST /v1/run``: a whole job."""


class StartBody(SessionStartBody, Setting):
    """JSON body of ``POST /v1/start``: a whole job."""


class SessionBody(Body, Setting):
    """JSON body of ``POST /v1/sessions``."""

    idle: Annotated[float, Field(gt=0, le=MAX_IDLE_SECONDS)] = make_optional_field(
        "Seconds without a run, after which the session ends."
    )


class SignalBody(Body):
    """Body of ``POST /v1/runs/{id}/signal``."""

    signal: Annotated[int, Field(ge=1, le=64)] | Annotated[str, Field(pattern="^(SIG)?[A-Z0-9]+$")]
