"""Models of the run options in queries and JSON bodies, made from their declarations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    model_validator,
)

from slipway._model.input_file import InputFile
from slipway._model.network import MAX_BYTES, MAX_RULES, MIN_RATE, Network
from slipway._model.network_texts import NetworkTexts
from slipway._model.options import MACHINE_OPTIONS, MAX_CHARACTERS, OPTIONS, Tty
from slipway._model.published_ports import MAX_PUBLISHED
from slipway._wire.fields import decode_text_or_base64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slipway._model.option import Option


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

    def decode(self, where: str) -> bytes:
        """Return the bytes.

        Raises:
            InputError: both or neither is given, or one is invalid. ``where`` names the field.
        """
        return decode_text_or_base64(self.text, self.base64, where)


class File(Data):
    """Input file for the working directory."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644


Total = Annotated[int, Field(gt=0, le=MAX_BYTES)]
Rate = Annotated[int, Field(ge=MIN_RATE, le=MAX_BYTES)]


class NetworkForm(Body):
    """Network of a machine: destinations that it may connect to. The server has a ceiling."""

    allow: Annotated[list[str], Field(max_length=MAX_RULES)] = Field(
        [],
        description="Rules: open, a preset (pypi, npm, crates, go, debian), a name, a name after "
        "'*.', an IPv4 address or block, each of these three also with a port after a colon, or "
        "host:PORT.",
    )
    publish: Annotated[list[str | int], Field(max_length=MAX_PUBLISHED)] = Field(
        [],
        description="Ports of the machine that the server's host listens for on 127.0.0.1: 8000, or"
        " '8080:8000' for its port 8080.",
    )
    limit: Total = make_optional_field("Bytes in both directions together.")
    rate: Rate = make_optional_field("Bytes in both directions together, in each second.")

    def to_network(self) -> Network:
        """Return the value of the option ``network``.

        Raises:
            InputError: a rule or port is invalid.
        """
        return Network(
            allow=tuple(self.allow),
            publish=tuple(self.publish),
            limit=self.limit,
            rate=self.rate,
        )


class NetworkQuery(BaseModel):
    """Network of a machine in a query: its parts have the names that they have as options."""

    network: str = make_optional_field("Rules of the network with commas between them, or none.")
    allow: str = make_optional_field("Further rules, with commas between them.")
    publish: str = make_optional_field(
        "Ports of the machine that the server's host listens for, with commas between them."
    )
    network_limit: Total = make_optional_field(NetworkForm.model_fields["limit"].description)
    network_rate: Rate = make_optional_field(NetworkForm.model_fields["rate"].description)

    def to_network(self) -> Network | None:
        """Return the value of the option ``network``; None without a network.

        Raises:
            InputError: a rule or port is invalid, or a limit is given without a network.
        """
        return NetworkTexts(
            network=self.network,
            allow=() if self.allow is None else (self.allow,),
            publish=() if self.publish is None else tuple(self.publish.split(",")),
            network_limit=self.network_limit,
            network_rate=self.network_rate,
        ).join()


# The form in JSON of a value of each type that is no scalar, and its empty value.
_BODY_FORMS: dict[Any, Any] = {
    tuple[str, ...]: list[str],
    tuple[tuple[str, str], ...]: dict[str, str],
    tuple[InputFile, ...]: list[File],
    Tty: bool | TerminalSize,
    Network: NetworkForm,
}


def _make_query_field(option: Option) -> tuple[Any, Any]:
    """Return the type and the default of the field for a scalar option or a flag."""
    if option.is_flag:
        return Flag, Field(False, description=option.description)
    texts = option.choices or option.names
    kind: Any = Literal[texts] if texts else option.type
    if bounds := option.bounds:
        least: dict[str, Any] = {"gt" if bounds.above else "ge": bounds.least}
        kind = Annotated[kind, Field(**least, le=bounds.most)]
    default = "" if option.default is None else f" Default: {option.default}."
    return kind, make_optional_field(option.description + default)


def _make_body_field(option: Option) -> tuple[Any, Any]:
    """Return the type and the default of the field for any option."""
    if option.is_scalar:
        return _make_query_field(option)
    kind = _BODY_FORMS[option.type]
    default = option.default
    if default == ():
        default = get_origin(kind)()
        kind = Annotated[kind, Field(max_length=option.most_items)]
    return kind, Field(default, description=option.description)


def _make_model(
    name: str, summary: str, make: Callable[[Option], tuple[Any, Any]], options: Iterable[Option]
) -> Any:
    """Return a model with a field for each of ``options``."""
    fields: dict[str, Any] = {option.name: make(option) for option in options}
    return create_model(name, __doc__=summary, **fields)


_REMOTE = [option for option in OPTIONS.values() if option.is_remote]
_OF_RUN = [option for option in _REMOTE if option.name not in MACHINE_OPTIONS]
_OF_MACHINE = [option for option in _REMOTE if option.name in MACHINE_OPTIONS]
_IN_QUERY = [option for option in _REMOTE if option.is_scalar or option.is_flag]

if TYPE_CHECKING:
    # Their fields come from the declarations of the options.
    class RunOptionsQuery(BaseModel): ...

    class RunOptionsBody(BaseModel): ...

    class MachineQuery(BaseModel): ...

    class MachineBody(BaseModel): ...

    class MachineShape(BaseModel): ...
else:
    RunOptionsQuery = _make_model(
        "RunOptionsQuery",
        "Options of one run in a query. Times in seconds, sizes in bytes.",
        _make_query_field,
        (option for option in _OF_RUN if option in _IN_QUERY),
    )
    RunOptionsBody = _make_model(
        "RunOptionsBody",
        "Options of one run in JSON. Times in seconds, sizes in bytes.",
        _make_body_field,
        _OF_RUN,
    )
    MachineQuery = _make_model(
        "MachineQuery",
        "Options of a machine in a query.",
        _make_query_field,
        (option for option in _OF_MACHINE if option in _IN_QUERY),
    )
    MachineBody = _make_model(
        "MachineBody", "Options of a machine in JSON.", _make_body_field, _OF_MACHINE
    )
    MachineShape = _make_model(
        "MachineShape",
        "Size and architecture of a machine. Memory in bytes.",
        _make_body_field,
        (option for option in _OF_MACHINE if option.bounds or option.name == "arch"),
    )


def read_options(form: BaseModel) -> dict[str, Any]:
    """Return the fields of :class:`slipway.Options` that are set in a query or body.

    Raises:
        InputError: the data of an input file, or a network, is invalid.
    """
    values = {name: getattr(form, name) for name in OPTIONS if name in form.model_fields_set}
    options = {name: _read_value(name, value) for name, value in values.items()}
    if isinstance(form, NetworkQuery) and form.model_fields_set & NetworkQuery.model_fields.keys():
        options["network"] = form.to_network()
    return options


def _read_value(name: str, value: Any) -> Any:
    if isinstance(value, TerminalSize):
        return value.to_tty()
    if isinstance(value, NetworkForm):
        return value.to_network()
    if isinstance(value, File):
        data = value.decode(f"{name}: the file {value.path!r:.80}")
        return InputFile(value.path, data, value.mode)
    if isinstance(value, list):
        return tuple(_read_value(f"{name}.{number}", item) for number, item in enumerate(value))
    return value
