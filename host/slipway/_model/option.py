"""Declaration of an option, from which every form of the option is made."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from slipway._model.values import Bounds, find_annotations, find_plain_type, read_field_types

if TYPE_CHECKING:
    from collections.abc import Mapping

# Types whose values have the same form in the library, in JSON and in a query.
_SCALARS = (bool, int, float, str)


class Group(enum.Enum):
    """Kind of a run option; the value is its heading in ``--help``."""

    PROGRAM = "program"
    LIMITS = "limits"
    # These belong to a session, the others to each of its runs.
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Option:
    """Declaration of an option, as an annotation of a field of a dataclass.

    For the run options of :class:`slipway.Options`:
    The check of the library, the arguments of ``slipway run``, the fields of the HTTP API and of
    the MCP tool, the table in docs/sdk.md and the API reference are made from this, the field's
    type and default.

    ``help`` is a phrase without capital letter and full stop. ``command_help`` is a second phrase
    for the command line, ``schema_help`` are further sentences for the schemas of the API and the
    tool, ``default_help`` says what None stands for. A ``local`` option exists only for machines
    that this process starts. ``flags`` are the names on the command line, by default the field's
    name with dashes; ``metavar`` stands for the value there, by default after its unit. ``names``
    are values beside those of the type: texts that mean the same on a server, so that a ``local``
    option with names exists there for these values.
    ``most_items`` bounds the length of a tuple or mapping.
    :func:`read_options` fills in ``name``, ``kind`` (the field's type) and ``default``.
    """

    help: str
    group: Group = Group.LIMITS
    command_help: str = ""
    schema_help: str = ""
    default_help: str = ""
    local: bool = False
    flags: tuple[str, ...] = ()
    metavar: str = ""
    choices: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    most_items: int | None = None
    name: str = ""
    kind: Any = None
    default: Any = None

    @property
    def type(self) -> Any:
        """Type of the value, without bounds and without None."""
        return find_plain_type(self.kind)

    @property
    def bounds(self) -> Bounds | None:
        """Bounds of the value, if it is a number."""
        return next(
            (note for note in find_annotations(self.kind) if isinstance(note, Bounds)), None
        )

    @property
    def is_scalar(self) -> bool:
        """Return True if the value has the same form in the library, in JSON and in a query."""
        return self.type in _SCALARS or bool(self.names)

    @property
    def is_remote(self) -> bool:
        """Return True if a server takes the option, or some of its values."""
        return not self.local or bool(self.names)

    def is_local_value(self, value: object) -> bool:
        """Return True if no server takes ``value``, which may be a value from a command line."""
        return self.local and bool(value) and value not in self.names

    @property
    def is_flag(self) -> bool:
        """Return True if the option takes no value on a command line."""
        return self.default is False

    @property
    def command_flags(self) -> tuple[str, ...]:
        """Names of the option on the command line."""
        return self.flags or ("--" + self.name.replace("_", "-"),)

    @property
    def command_phrase(self) -> str:
        """Help on the command line."""
        return f"{self.help}, {self.command_help}" if self.command_help else self.help

    @property
    def description(self) -> str:
        """Sentences for the schemas."""
        return f"{_make_sentence(self.help)} {self.schema_help}".rstrip()

    @property
    def sentence(self) -> str:
        """Sentence for the docs."""
        return _make_sentence(self.command_phrase)


def _make_sentence(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}."


def read_options(kind: type) -> Mapping[str, Option]:
    """Return the options that the fields of the dataclass ``kind`` declare, by name."""
    kinds = read_field_types(kind)
    return {
        field.name: replace(note, name=field.name, kind=kinds[field.name], default=field.default)
        for field in fields(kind)
        for note in find_annotations(kinds[field.name])
        if isinstance(note, Option)
    }
