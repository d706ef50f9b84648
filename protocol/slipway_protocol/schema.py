"""Wire format of messages: a table of ids for each direction, and a check for each field.

A message is a msgpack array: its id, then its fields in the order of the class. The peer may be
hostile, and each decoded value passes a check of its type and bounds. Fields behind the known ones
come from a newer peer and are ignored.

The functions that return a check are named after the type in the tables of docs/protocol.md.
"""

from __future__ import annotations

from slipway_protocol import messages as m
from slipway_protocol.errors import ProtocolError

TYPE_CHECKING = False  # the frozen agent has no typing module
if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import IntEnum
    from typing import Any

    Check = Callable[[Any], Any]

VERSION = 2

# Bytes of a payload, which is one message. Bounds the buffer for a hostile peer.
MAX_MESSAGE = 64 * 1024
# Bytes of data in Output, Input and FileData; leaves room for the other fields.
MAX_DATA = 60 * 1024
MAX_PATH = 4096
MAX_TEXT = 4096
MAX_ARGUMENT = 32 * 1024
MAX_ITEMS = 1024

U8 = 0xFF
U16 = 0xFFFF
U32 = 0xFFFF_FFFF
U63 = 0x7FFF_FFFF_FFFF_FFFF


def _format_value(value: Any) -> str:
    """Return ``value`` for a message. A list may be nested deeper than repr can follow."""
    return f"a list of {len(value)}" if type(value) is tuple else f"{value!r:.40}"


def integer(maximum: int) -> Check:
    """Return a check for an int from 0 to ``maximum``; a bool fails."""

    def check(value: Any) -> Any:
        if type(value) is not int or not 0 <= value <= maximum:
            raise ProtocolError(f"{_format_value(value)} is not an integer from 0 to {maximum}")
        return value

    return check


def boolean(value: Any) -> Any:
    """Check for true or false."""
    if value is not True and value is not False:
        raise ProtocolError(f"{_format_value(value)} is not a boolean")
    return value


def text(maximum: int) -> Check:
    """Return a check for a string of at most ``maximum`` characters without NUL."""

    def check(value: Any) -> Any:
        if type(value) is not str or len(value) > maximum or "\0" in value:
            raise ProtocolError(
                f"{_format_value(value)} is not text of at most {maximum} characters"
            )
        return value

    return check


def binary(minimum: int, maximum: int) -> Check:
    """Return a check for ``minimum`` to ``maximum`` bytes."""

    def check(value: Any) -> Any:
        if type(value) is not bytes or not minimum <= len(value) <= maximum:
            raise ProtocolError(f"{_format_value(value)} is not {minimum} to {maximum} bytes")
        return value

    return check


def path(value: Any) -> Any:
    """Check for a relative path that stays below its root: no empty, ``.`` or ``..`` part."""
    if type(value) is not str or not 0 < len(value) <= MAX_PATH or "\0" in value:
        raise ProtocolError(f"{_format_value(value)} is not a path")
    for part in value.split("/"):
        if part in {"", ".", ".."} or len(part) > 255:
            raise ProtocolError(f"{value!r:.80} is not a path inside the working directory")
    return value


def member(kind: type[IntEnum]) -> Check:
    """Return a check for a number of the enum ``kind``."""
    members = {int(value): value for value in kind}

    def check(value: Any) -> Any:
        if type(value) is not int or value not in members:
            raise ProtocolError(f"{_format_value(value)} is not a {kind.__name__}")
        return members[value]

    return check


def sequence(check_item: Check, maximum: int = MAX_ITEMS, minimum: int = 0) -> Check:
    """Return a check for a list of ``minimum`` to ``maximum`` items."""

    def check(value: Any) -> Any:
        if type(value) is not tuple or not minimum <= len(value) <= maximum:
            raise ProtocolError(f"{_format_value(value)} is not a list of {minimum} to {maximum}")
        return tuple([check_item(item) for item in value])

    return check


def pair(first: Check, second: Check) -> Check:
    """Return a check for a list of exactly two items."""

    def check(value: Any) -> Any:
        if type(value) is not tuple or len(value) != 2:
            raise ProtocolError(f"{_format_value(value)} is not a pair")
        return first(value[0]), second(value[1])

    return check


def record(kind: type, *checks: Check) -> Check:
    """Return a check for a record of class ``kind``, as a list of its fields."""

    def check(value: Any) -> Any:
        if type(value) is not tuple or len(value) < len(checks):
            raise ProtocolError(f"{_format_value(value)} is not a {kind.__name__}")
        return kind(*[c(v) for c, v in zip(checks, value, strict=False)])

    return check


def optional(check_present: Check) -> Check:
    """Return a check for nil, or a value."""

    def check(value: Any) -> Any:
        return None if value is None else check_present(value)

    return check


_u32 = integer(U32)
_u63 = integer(U63)
# Never empty: an empty message costs no credit, and could be sent to a slow reader without end.
_data = binary(1, MAX_DATA)
_stream = member(m.Stream)
_phase = member(m.Phase)
_names = sequence(text(64), 64)

_limits = record(m.Limits, _u32, _u32, _u63, _u32, _u63, _u32, _u63, boolean, _u32)
_tty = record(m.Tty, integer(U16), integer(U16))
_command = record(
    m.Command,
    sequence(text(MAX_ARGUMENT)),
    sequence(pair(text(MAX_TEXT), text(MAX_ARGUMENT))),
    _limits,
    boolean,
    optional(_tty),
    _names,
)
_usage = record(m.Usage, _u63, _u63, _u63, _u63, _u32)

_FILE = (m.File, (_u32, path, integer(0o777), _u63))
_FILE_DATA = (m.FileData, (_u32, _data))
_whole_file = record(m.WholeFile, path, integer(0o777), binary(0, MAX_DATA))
# Not empty, for the same reason as data.
_FILES = (m.Files, (_u32, sequence(_whole_file, MAX_ITEMS, 1)))
_CREDIT = (m.Credit, (_u32, _stream, _u32))

Table = dict[int, tuple[type, tuple["Check", ...]]]

HOST_TO_AGENT: Table = {
    1: (m.Hello, (_u32, _names, _u63, binary(0, 64), boolean)),
    2: (
        m.Job,
        (_u32, optional(_command), _command, sequence(path), _u32, _u63, boolean, _u63),
    ),
    3: _FILE,
    4: _FILE_DATA,
    5: (m.Start, (_u32,)),
    6: (m.Input, (_u32, _data)),
    7: (m.InputEnd, (_u32,)),
    8: _CREDIT,
    9: (m.Signal, (_u32, integer(64))),
    10: (m.Cancel, (_u32,)),
    11: (m.Shutdown, ()),
    12: (m.Prestart, (_command, path, sequence(path))),
    13: (m.Resize, (_u32, _tty)),
    14: (m.Connect, (binary(4, 4), binary(4, 4), integer(32), integer(U16), binary(6, 6))),
    15: (m.Packed, (_data,)),
    16: _FILES,
}

AGENT_TO_HOST: Table = {
    3: _FILE,
    4: _FILE_DATA,
    8: _CREDIT,
    16: _FILES,
    32: (m.Awake, (_u32,)),
    33: (
        m.Ready,
        (_u32, text(64), _names, text(256), integer(U16), _u63, _u63, _u63),
    ),
    34: (m.PhaseStarted, (_u32, _phase)),
    35: (m.Output, (_u32, _stream, _data)),
    36: (m.OutputEnd, (_u32, _stream, _u63, _u63)),
    37: (m.Exited, (_u32, _phase, integer(U8), integer(U8))),
    38: (
        m.PhaseDone,
        (_u32, _phase, member(m.Verdict), integer(U8), integer(U8), _usage, text(MAX_TEXT)),
    ),
    39: (m.FileMissing, (_u32, path, text(MAX_TEXT))),
    40: (m.JobDone, (_u32,)),
    41: (m.Log, (member(m.Level), text(MAX_TEXT))),
    42: (m.Fault, (text(MAX_TEXT), boolean)),
    43: (m.Connected, (_u63, _u63)),
}
