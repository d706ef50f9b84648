"""What a request may ask for: the forms of its query and of its JSON body."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from slipway._model.bounds import MAX_ARGUMENTS, MAX_FILES, MAX_OUTPUTS, MAX_VARIABLES
from slipway._model.option import Group
from slipway._model.options import MAX_CHARACTERS, OPTIONS, Tty
from slipway._model.session import MAX_IDLE_SECONDS

if TYPE_CHECKING:
    from slipway._model.option import Option

_TEXTUAL = ConfigDict(extra="forbid", allow_inf_nan=False)


def make_optional_field(description: str | None = None) -> Any:
    """A field that need not be there. It is None then."""
    return Field(None, description=description)


def _parse_flag(value: object) -> object:
    if value in {"true", "false"}:
        return value == "true"
    raise ValueError("must be true or false")


def _describe_nulls(schema: dict[str, Any]) -> None:
    """Have a schema say of fields that need not be there that null is as good as nothing.

    It tells no default as ``default``: there are generated clients that send each of those, and
    others that have their users give them.
    """
    required = schema.get("required", ())
    for name, told in schema.get("properties", {}).items():
        if name in required:
            continue
        describe_default(told)
        words = {key: told.pop(key) for key in ("title", "description") if key in told}
        kinds = told.pop("anyOf", None) or [dict(told)]
        told.clear()
        told |= {"anyOf": [*kinds, {"type": "null"}], **words}


def describe_default(told: dict[str, Any]) -> None:
    """Tell in words what a field is where it is left out."""
    default = told.pop("default", None)
    if default not in (None, "", [], {}):
        text = json.dumps(default) if not isinstance(default, str) else default
        told["description"] = f"{told.get('description', '')} Default: {text}.".strip()


class Body(BaseModel):
    """What is sent as JSON. A field that is null has not been given."""

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
    """Return the type and the default of the field for a scalar option that is no flag."""
    kind: Any = Literal[option.choices] if option.choices else option.type
    if bounds := option.bounds:
        least: dict[str, Any] = {"gt" if bounds.above else "ge": bounds.least}
        kind = Annotated[kind, Field(**least, le=bounds.most)]
    default = "" if option.default is None else f" Default: {option.default}."
    return kind, make_optional_field(option.sentence + default)


_WIRE_OPTIONS = [option for option in OPTIONS.values() if option.is_scalar and not option.local]
_FLAGS = [option for option in _WIRE_OPTIONS if option.is_flag]
_LIMITS = {
    option.name: _make_field(option)
    for option in _WIRE_OPTIONS
    if option.group is not Group.MACHINE and not option.is_flag
}
_MACHINE = {
    option.name: _make_field(option)
    for option in _WIRE_OPTIONS
    if option.group is Group.MACHINE and not option.is_flag
}
_SIZES = {name: field for name, field in _MACHINE.items() if not OPTIONS[name].choices}

if TYPE_CHECKING:
    # Their fields come from the declarations of the options.
    class Limits(BaseModel): ...

    class MachineSize(BaseModel): ...

    class _Machine(BaseModel): ...

    class _QueryFlags(BaseModel): ...

    class _BodyFlags(BaseModel): ...
else:
    Limits = create_model(
        "Limits", __doc__="Limits of one run. Times in seconds, sizes in bytes.", **_LIMITS
    )
    MachineSize = create_model(
        "MachineSize", __doc__="Size of a machine. Memory in bytes.", **_SIZES
    )
    _Machine = create_model("_Machine", **_MACHINE)
    _QueryFlags = create_model(
        "_QueryFlags",
        **{flag.name: (Flag, Field(False, description=flag.sentence)) for flag in _FLAGS},
    )
    _BodyFlags = create_model(
        "_BodyFlags",
        **{flag.name: (bool, Field(False, description=flag.sentence)) for flag in _FLAGS},
    )


class _Language(BaseModel):
    language: Name = make_optional_field("A language's name or alias, or NAME@VERSION.")
    version: Name = make_optional_field("The language's version, instead of @VERSION.")


class Setting(_Machine, _Language):
    """Language and machine of a run or session. Sizes in bytes."""


class SessionRunQuery(_QueryFlags, Limits):
    """The query of ``POST /v1/sessions/{id}/run``."""

    model_config = _TEXTUAL

    tty: Flag = Field(False, description="The program has a terminal of 24 rows and 80 columns.")


class SessionStartQuery(SessionRunQuery):
    """The query of ``POST /v1/sessions/{id}/start``."""

    stream: StreamName = Field("raw", description="What the output socket gives.")
    interactive: Flag = Field(False, description="Stdin comes as commands on the output socket.")
    detached: Flag = Field(False, description="Goes on when its client leaves.")


class RunQuery(SessionRunQuery, Setting):
    """The query of ``POST /v1/run``."""


class StartQuery(SessionStartQuery, Setting):
    """The query of ``POST /v1/start``."""


class ResumeQuery(BaseModel):
    """The query of ``POST /v1/runs/{id}/resume``."""

    model_config = _TEXTUAL

    offset: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        description="The byte of the stream at which the next connection begins."
    )


class NoQuery(BaseModel):
    """The query of a route that has none."""

    model_config = _TEXTUAL


class TerminalSize(Body):
    """The size of a program's terminal, in characters; also the body of a resize."""

    rows: Annotated[int, Field(ge=1, le=MAX_CHARACTERS)]
    columns: Annotated[int, Field(ge=1, le=MAX_CHARACTERS)]

    def to_tty(self) -> Tty:
        """Return the option that says so."""
        return Tty(self.rows, self.columns)


class Data(Body):
    """Bytes: ``text`` where they are UTF-8, else ``base64`` (RFC 4648); one of the two."""

    text: str = make_optional_field()
    base64: str = make_optional_field()


class File(Data):
    """A file for the working directory."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644


class Details(Body, _BodyFlags, Limits):
    """Fields of a job beside its source and its language, for the HTTP API and the MCP tool."""

    tty: bool | TerminalSize = Field(
        False,
        description="Run it in a terminal, of 24 rows and 80 columns if true: what it wrote before "
        "a crash is there, a prompt comes before its input, stdin is echoed, and all is in stdout.",
    )
    arguments: Annotated[list[str], Field(max_length=MAX_ARGUMENTS)] = Field(
        [], description="Command line arguments of the program."
    )
    environment: Annotated[dict[str, str], Field(max_length=MAX_VARIABLES)] = Field(
        {}, description="Environment variables of build and program."
    )
    files: Annotated[list[File], Field(max_length=MAX_FILES)] = Field(
        [], description="Files in the working directory: each with text, or base64."
    )
    outputs: Annotated[list[str], Field(max_length=MAX_OUTPUTS)] = Field(
        [], description="Paths of files that the program writes and that are wanted back."
    )
    stdin: str | Data = Field("", description="What the program reads on its standard input.")


class SessionRunBody(Details):
    """The JSON body of ``POST /v1/sessions/{id}/run``: a whole job."""

    source: str = make_optional_field("The program; this or source_base64.")
    source_base64: str = make_optional_field()


class SessionStartBody(SessionRunBody):
    """The JSON body of ``POST /v1/sessions/{id}/start``: a whole job."""

    stream: StreamName = "raw"
    interactive: bool = False
    detached: bool = False


class RunBody(SessionRunBody, Setting):
    """The JSON body of ``POST /v1/run``: a whole job."""


class StartBody(SessionStartBody, Setting):
    """The JSON body of ``POST /v1/start``: a whole job."""


class SessionBody(Body, Setting):
    """The JSON body of ``POST /v1/sessions``."""

    idle: Annotated[float, Field(gt=0, le=MAX_IDLE_SECONDS)] = make_optional_field(
        "Without a run for so long, the session ends by itself."
    )


class SignalBody(Body):
    """The body of ``POST /v1/runs/{id}/signal``."""

    signal: Annotated[int, Field(ge=1, le=64)] | Annotated[str, Field(pattern="^(SIG)?[A-Z0-9]+$")]
