"""docs/protocol.md agrees with the code in each id, field, type and bound."""

import re
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
import pytest

from slipway_protocol import messages as m
from slipway_protocol.codec import decode
from slipway_protocol.errors import ProtocolError
from slipway_protocol.framing import MAX_ENCODED, encode_frame
from slipway_protocol.schema import AGENT_TO_HOST, HOST_TO_AGENT, MAX_ITEMS, MAX_MESSAGE, VERSION

DIRECTIONS = {
    "host to agent": (HOST_TO_AGENT,),
    "agent to host": (AGENT_TO_HOST,),
    "both": (HOST_TO_AGENT, AGENT_TO_HOST),
}
INTEGERS = {"u8": 2**8 - 1, "u16": 2**16 - 1, "u32": 2**32 - 1, "u63": 2**63 - 1}


@cache
def document() -> str:
    return (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")


def prose() -> str:
    """Return the document with one space between words, as its lines may be wrapped anywhere."""
    return " ".join(document().split())


def rows(*header: str) -> list[list[str]]:
    """The body of the table in the document that has ``header``."""
    _, _, table = document().partition("| " + " | ".join(header) + " |\n")
    assert table, f"no table with {header}"
    lines = [line for line in table.split("\n\n")[0].splitlines()[1:] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def parse_fields(cell: str) -> dict[str, str]:
    """Field names and their types, in order."""
    found = [re.fullmatch(r"`(\w+)` (.+)", part.strip()) for part in cell.split(";") if part]
    assert all(found), cell
    return {match[1]: match[2] for match in found if match}


@dataclass(frozen=True)
class Row:
    """One message of the document."""

    number: int
    direction: str
    name: str
    fields: dict[str, str]


@cache
def messages() -> list[Row]:
    """The messages of the document."""
    return [
        Row(int(number), direction, name, parse_fields(cell))
        for number, direction, name, cell in rows("id", "direction", "message", "fields")
    ]


@cache
def enumerations() -> dict[str, dict[int, str]]:
    """The values of each enumeration of the document, and their names."""
    return {
        name: {int(n): value for n, value in re.findall(r"(\d+) (\w+)", cell)}
        for name, cell in rows("name", "values")
    }


@cache
def records() -> dict[str, dict[str, str]]:
    """The fields of each record of the document, and their types."""
    return {name: parse_fields(cell) for name, cell in rows("name", "fields")}


def smallest(kind: str) -> Any:
    """The least value of a type of the document, as msgpack has it."""
    return extremes(kind)[0][0]


def extremes(kind: str) -> tuple[list[Any], list[Any]]:
    """Values of a type of the document that are just within its bounds, and just beyond."""
    if kind.endswith(" or nil"):
        within, beyond = extremes(kind.removesuffix(" or nil"))
        return [None, *within], [value for value in beyond if value is not None]
    if kind in INTEGERS or (match := re.fullmatch(r"int (\d+)", kind)):
        most = INTEGERS[kind] if kind in INTEGERS else int(match[1])  # type: ignore[index]
        return [0, most], [-1, most + 1, False, 0.0, "0", None]
    if match := re.fullmatch(r"text (\d+)", kind):
        most = int(match[1])
        return ["", "é" * most, "\udcff" * most], ["x" * (most + 1), "\0", b"", None]
    if match := re.fullmatch(r"bytes (\d+)\.\.(\d+)", kind):
        least, most = int(match[1]), int(match[2])
        shorter = [bytes(least - 1)] if least else []
        return [bytes(least), bytes(most)], [*shorter, bytes(most + 1), "", None]
    if match := re.fullmatch(r"list (?:(\d+)\.\.)?(\d+) of (.+)", kind):
        least, most, (within, beyond) = int(match[1] or 0), int(match[2]), extremes(match[3])
        lists = [[within[0]] * least, [within[0]] * most, *([value] for value in within)]
        sizes = [*([least - 1] if least else []), most + 1]
        return lists, [
            *([within[0]] * size for size in sizes),
            *([value] for value in beyond),
            "",
            None,
        ]
    if match := re.fullmatch(r"pair of (.+) and (.+)", kind):
        (first, _), (second, _) = extremes(match[1]), extremes(match[2])
        pair = [first[0], second[0]]
        return (
            [pair, [first[-1], second[-1]]],
            [
                [],
                pair[:1],
                [*pair, second[0]],
                *([value, pair[1]] for value in extremes(match[1])[1]),
                *([pair[0], value] for value in extremes(match[2])[1]),
            ],
        )
    return named_extremes(kind)


def named_extremes(kind: str) -> tuple[list[Any], list[Any]]:
    if kind == "bool":
        return [False, True], [0, 1, None]
    if kind == "path":
        longest = "/".join(["é" * 255] * 16)
        outside = ["", ".", "..", "/a", "a/", "a//b", "a/../b", "a\0", "x" * 256, longest + "/é"]
        return ["a", longest, "..."], [*outside, b"a", None]
    if kind in enumerations():
        values = enumerations()[kind]
        return sorted(values), [min(values) - 1, max(values) + 1, False, "", None]
    values_of = {name: extremes(inner) for name, inner in records()[kind].items()}
    least = [within[0] for within, _ in values_of.values()]
    return vary(least, values_of)[0], [*vary(least, values_of)[1], least[:-1], [], None]


def vary(
    least: list[Any], values_of: dict[str, tuple[list[Any], list[Any]]]
) -> tuple[list[Any], list[Any]]:
    """``least`` with one field at a time at its bounds, and beyond them."""
    within, beyond = [least], []
    for place, (good, bad) in enumerate(values_of.values()):
        within += [[*least[:place], value, *least[place + 1 :]] for value in good]
        beyond += [[*least[:place], value, *least[place + 1 :]] for value in bad]
    return within, beyond


def test_table_has_every_message_and_no_other() -> None:
    documented = {
        (row.number, row.name, number_of_table)
        for row in messages()
        for number_of_table, table in enumerate((HOST_TO_AGENT, AGENT_TO_HOST))
        if table in DIRECTIONS[row.direction]
    }
    known = {
        (number, kind.__name__, number_of_table)
        for number_of_table, table in enumerate((HOST_TO_AGENT, AGENT_TO_HOST))
        for number, (kind, _) in table.items()
    }

    assert documented == known
    assert [row.number for row in messages()] == sorted({row.number for row in messages()})


def test_fields_are_those_of_the_class_in_its_order(subtests: pytest.Subtests) -> None:
    documented = {row.name: row.fields for row in messages()} | records()

    assert documented
    for name, found in documented.items():
        with subtests.test(name):
            assert list(found) == [field.name for field in fields(getattr(m, name))]


def test_enumerations_are_those_of_the_code() -> None:
    known = {
        kind.__name__: {member.value: member.name for member in kind}
        for kind in vars(m).values()
        if isinstance(kind, type) and issubclass(kind, IntEnum) and kind is not IntEnum
    }

    assert known == enumerations()


def test_bounds_are_those_of_the_code_to_the_byte(subtests: pytest.Subtests) -> None:
    for row in messages():
        with subtests.test(row.name):
            check_bounds(row)


def check_bounds(row: Row) -> None:
    least = [smallest(kind) for kind in row.fields.values()]
    within, beyond = vary(least, {name: extremes(kind) for name, kind in row.fields.items()})

    for table in DIRECTIONS[row.direction]:
        for values in within:
            assert decode(pack(row.number, values), table) is not None
        for values in beyond:
            with pytest.raises(ProtocolError):
                decode(pack(row.number, values), table)


def pack(number: int, values: list[Any]) -> bytes:
    payload: bytes = msgpack.packb([number, *values], unicode_errors="surrogateescape")
    return payload


def test_example_frames_are_right() -> None:
    examples = re.findall(
        r"payload\s`([0-9A-F ]+)`[^`]+(?:`[^`]+` and )?the frame\s(?:is )?`([0-9A-F ]+)`",
        prose(),
    )

    assert len(examples) == 2
    for payload, frame in examples:
        assert encode_frame(bytes.fromhex(payload)) == bytes.fromhex(frame)


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    assert f"Version {VERSION}." in prose()
    assert f"A payload has 1 to {MAX_MESSAGE} bytes" in prose()
    assert f"at most {MAX_ENCODED} bytes between ENDs" in prose()
    assert f"No array has more than {MAX_ITEMS} items" in prose()


def test_worked_example_adds_up() -> None:
    header = ("event", "agent may send", "on the way or unread", "taken, not yet granted")
    lines = [[int(cell) for cell in row[1:]] for row in rows(*header)]

    assert len(lines) == 6
    assert {sum(line) for line in lines} == {100}
