"""Server of names of the gateway: answers, refusals, and the table of virtual addresses."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.machine.gateway import name_table
from slipway.machine.gateway.addresses import FIRST_NAME, GATEWAY, LAST_NAME
from slipway.machine.gateway.name_table import NameTable
from slipway.machine.gateway.names import (
    BAD_VERSION,
    FORMAT_ERROR,
    MAX_QUERY,
    NAME_ERROR,
    NO_ERROR,
    NOT_IMPLEMENTED,
    SERVER_FAILURE,
    TYPE_AAAA,
    TYPE_ANY,
    NameServer,
)
from slipway.machine.gateway.policy import Policy
from support.name_questions import NameReply, build_question, encode_name, parse_reply

TYPE_TXT = 16
TYPE_PTR = 12
CLASS_CHAOS = 3


def make_server(*rules: str, table: NameTable | None = None) -> NameServer:
    return NameServer(Policy("\n".join(rules)), NameTable() if table is None else table)


def ask(server: NameServer, query: bytes) -> NameReply:
    answer = server.answer(query)
    assert answer is not None
    return parse_reply(answer.message)


def test_allowed_name_has_a_virtual_address() -> None:
    server = make_server("example.com")

    reply = ask(server, build_question("example.com", identifier=0x1234))

    assert reply.identifier == 0x1234
    assert reply.code == NO_ERROR
    assert reply.addresses == [FIRST_NAME]
    assert reply.question == build_question("example.com")[12:]


def test_name_keeps_its_address_in_any_case() -> None:
    server = make_server("*.example.com")

    first = ask(server, build_question("a.example.com"))
    second = ask(server, build_question("b.example.com"))
    again = ask(server, build_question("A.EXAMPLE.com"))

    assert first.addresses == again.addresses != second.addresses
    assert again.question == build_question("A.EXAMPLE.com")[12:]


def test_name_that_is_not_allowed_does_not_exist() -> None:
    server = make_server("example.com")

    answer = server.answer(build_question("evil.example"))

    assert answer is not None
    reply = parse_reply(answer.message)
    assert reply.code == NAME_ERROR
    assert reply.addresses == []
    assert answer.denied == "evil.example"


@pytest.mark.parametrize(
    ("name", "kind", "denied"),
    [
        ("evil.example", TYPE_TXT, "evil.example"),
        ("evil.example", TYPE_AAAA, ""),
        ("1.0.18.198.in-addr.arpa", TYPE_PTR, ""),
    ],
)
def test_noise_is_not_reported_as_denied(name: str, kind: int, denied: str) -> None:
    answer = make_server().answer(build_question(name, kind))

    assert answer is not None
    assert parse_reply(answer.message).code == NAME_ERROR
    assert answer.denied == denied


@pytest.mark.parametrize("kind", [TYPE_AAAA, TYPE_TXT, 65])
def test_other_types_of_an_allowed_name_are_empty(kind: int) -> None:
    table = NameTable()
    server = make_server("example.com", table=table)

    reply = ask(server, build_question("example.com", kind))

    assert (reply.code, reply.addresses) == (NO_ERROR, [])
    assert table.names == ()


def test_question_for_all_types_has_the_address() -> None:
    reply = ask(make_server("example.com"), build_question("example.com", TYPE_ANY))

    assert reply.addresses == [FIRST_NAME]


def test_host_is_a_name_where_a_port_of_it_is_allowed() -> None:
    query = build_question("host")

    assert ask(make_server("host:80"), query).addresses == [GATEWAY]
    assert ask(make_server("open"), query).code == NAME_ERROR


def test_open_policy_allows_names_of_two_parts() -> None:
    server = make_server("open")

    assert ask(server, build_question("any.example")).addresses
    for name in ("localhost", "intranet", "127.0.0.1", "a b.example", ""):
        assert ask(server, build_question(name)).code == NAME_ERROR


def test_dot_inside_a_part_makes_no_other_name() -> None:
    server = make_server("www.example.com")
    query = build_question("www.example.com").replace(
        encode_name("www.example.com"), b"\x0bwww.example\x03com\0"
    )

    assert ask(server, query).code == NAME_ERROR


@pytest.mark.parametrize("size", [0, 1, 11, MAX_QUERY + 1])
def test_message_of_a_wrong_size_gets_no_answer(size: int) -> None:
    assert make_server("open").answer(bytes(size)) is None


def test_answers_are_not_answered() -> None:
    server = make_server("example.com")
    answer = server.answer(build_question("example.com"))

    assert answer is not None
    assert server.answer(answer.message) is None


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_other_operations_are_not_implemented(opcode: int) -> None:
    query = bytearray(build_question("example.com"))
    query[2] |= opcode << 3

    reply = ask(make_server("example.com"), bytes(query))

    assert reply.code == NOT_IMPLEMENTED
    assert reply.opcode == opcode


def test_other_classes_are_not_implemented() -> None:
    query = build_question("example.com", family=CLASS_CHAOS)

    assert ask(make_server("example.com"), query).code == NOT_IMPLEMENTED


@pytest.mark.parametrize("count", [0, 2, 0xFFFF])
def test_message_has_one_question(count: int) -> None:
    query = bytearray(build_question("example.com") + build_question("example.com")[12:])
    query[4:6] = count.to_bytes(2, "big")

    assert ask(make_server("example.com"), bytes(query)).code == FORMAT_ERROR


@pytest.mark.parametrize(
    "question",
    [
        b"\xc0\x0c\0\1\0\1",  # a pointer to itself
        b"\1a\xc0\x0c\0\1\0\1",  # a loop
        b"\1a\xc0\0\0\1\0\1",  # to the header
        b"\x40" + b"a" * 64 + b"\0\0\1\0\1",  # a reserved kind of part
        b"\x80a\0\0\1\0\1",
        b"\3abc",  # without an end
        b"\3ab",
        b"\3abc\0",
        b"\3abc\0\0\1\0",
        b"\1a" * 128 + b"\0\0\1\0\1",  # 257 bytes
        b"",
    ],
)
def test_malformed_question_is_a_format_error(question: bytes) -> None:
    header = build_question("example.com")[:12]

    assert ask(make_server("open"), header + question).code == FORMAT_ERROR


def test_longest_name_is_answered() -> None:
    name = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    server = make_server(name)

    answer = server.answer(build_question(name, edns=True))

    assert answer is not None
    assert len(answer.message) <= 512
    assert parse_reply(answer.message).addresses == [FIRST_NAME]


def test_edns_is_answered_with_edns() -> None:
    server = make_server("example.com")

    plain = ask(server, build_question("example.com"))
    extended = ask(server, build_question("example.com", edns=True))

    assert not plain.has_edns
    assert extended.has_edns
    assert extended.addresses == [FIRST_NAME]


def test_unknown_version_of_edns_is_named() -> None:
    reply = ask(make_server("example.com"), build_question("example.com", edns=True, version=1))

    assert reply.code == BAD_VERSION
    assert reply.addresses == []


def test_records_after_the_question_are_ignored() -> None:
    query = bytearray(build_question("example.com") + b"\xc0\x0c\xff")
    query[10:12] = b"\0\5"

    assert ask(make_server("example.com"), bytes(query)).addresses == [FIRST_NAME]


def test_full_table_is_a_server_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_table, "MAX_NAMES", 2)
    server = make_server("*.example.com")
    known = [ask(server, build_question(f"{n}.example.com")) for n in "ab"]

    full = ask(server, build_question("c.example.com"))

    assert full.code == SERVER_FAILURE
    assert [reply.code for reply in known] == [NO_ERROR, NO_ERROR]
    assert ask(server, build_question("a.example.com")).addresses == known[0].addresses


def test_table_has_65000_names_and_no_more() -> None:
    table = NameTable(f"{number}.example" for number in range(70_000))

    last = table.assign_address("64999.example")
    assert len(table.names) == 65_000
    assert last is not None
    assert FIRST_NAME < last <= LAST_NAME
    assert table.find_name(last) == "64999.example"
    assert table.assign_address("65000.example") is None


def test_table_bounds_the_characters_of_all_names() -> None:
    table = NameTable(f"{number:05}{'a' * 240}.example" for number in range(20_000))

    assert sum(map(len, table.names)) <= name_table.MAX_CHARACTERS
    assert 10_000 < len(table.names) < 20_000


def test_fork_has_the_addresses_of_its_parent() -> None:
    parent = NameTable(["a.example", "b.example"])

    fork = NameTable(parent.names)

    for name in parent.names:
        address = parent.assign_address(name)
        assert address is not None
        assert fork.assign_address(name) == address
        assert fork.find_name(address) == name


@given(st.lists(st.sampled_from("abcdef"), max_size=20))
def test_names_and_addresses_correspond(names: list[str]) -> None:
    table = NameTable()
    for name in names:
        address = table.assign_address(name)

        assert address is not None
        assert table.find_name(address) == name
    assert len(table.names) == len(set(names))


@given(st.binary(min_size=4, max_size=4))
def test_address_without_a_name_has_none(address: bytes) -> None:
    table = NameTable(["a.example"])

    assert table.find_name(address) == ("a.example" if address == FIRST_NAME else None)


@given(st.binary(max_size=600))
def test_any_message_is_survived(message: bytes) -> None:
    check_survival(make_server("open", "host:80"), message)


@given(
    st.sampled_from(["example.com", "a.example.com", "evil.example", "host"]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=6),
    st.integers(0, 60),
)
def test_any_change_of_a_message_is_survived(
    name: str, changes: list[tuple[int, int]], cut: int
) -> None:
    message = bytearray(build_question(name, edns=True))
    for place, value in changes:
        if place < len(message):
            message[place] = value

    check_survival(make_server("*.example.com"), bytes(message[: len(message) - cut]))


def check_survival(server: NameServer, message: bytes) -> None:
    answer = server.answer(message)

    if answer is not None:
        assert len(answer.message) <= 512
        assert answer.message[:2] == message[:2]
        assert struct.unpack_from("!H", answer.message, 2)[0] & 0x8000
        parse_reply(answer.message)
