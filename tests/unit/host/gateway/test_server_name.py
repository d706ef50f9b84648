"""Server name of a TLS hello: found in what real clients send, refused where it is ambiguous."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.machine.gateway.server_name import (
    MAX_HELLO,
    MAX_RECORDS,
    MalformedHelloError,
    find_server_name,
)


def make_hello(name: str | None) -> bytes:
    """Return the first bytes of a client: those of Python's OpenSSL."""
    context = ssl.create_default_context()
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


def split_records(hello: bytes, size: int) -> bytes:
    """Return the hello of one record in records of at most ``size`` bytes."""
    body = hello[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def pack(prefix: int, content: bytes) -> bytes:
    return len(content).to_bytes(prefix, "big") + content


def build_hello(extensions: bytes | None, compression: bytes = b"\0") -> bytes:
    """Return a hello of one record with any extensions."""
    body = b"\3\3" + bytes(32) + pack(1, b"") + pack(2, b"\x13\1") + pack(1, compression)
    if extensions is not None:
        body += pack(2, extensions)
    return b"\x16\3\1" + pack(2, b"\1" + pack(3, body))


def build_extension(name: bytes, kind: int = 0) -> bytes:
    return b"\0\0" + pack(2, pack(2, bytes((kind,)) + pack(2, name)))


def test_name_of_a_real_client_is_found() -> None:
    hello = make_hello("Example.com")

    assert find_server_name(hello) == "example.com"
    assert find_server_name(hello + b"more bytes") == "example.com"


def test_hello_without_a_name_is_allowed() -> None:
    assert find_server_name(make_hello(None)) == ""
    assert find_server_name(build_hello(None)) == ""
    assert find_server_name(build_hello(b"")) == ""


def test_each_beginning_of_a_hello_needs_more() -> None:
    hello = make_hello("example.com")

    found = {find_server_name(hello[:size]) for size in range(len(hello))}

    assert found == {None}


@pytest.mark.parametrize("size", [20, 100, 300])
def test_name_of_a_hello_in_several_records_is_found(size: int) -> None:
    records = split_records(make_hello("example.com"), size)

    assert find_server_name(records) == "example.com"
    assert find_server_name(records[:-1]) is None


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n", b"SSH-2.0", b"\0", b"\x80\x2e\1", b"\x16\2", b"\xff" * 40]
)
def test_other_protocols_are_allowed(sent: bytes) -> None:
    assert find_server_name(sent) == ""


def test_dot_at_the_end_is_left_out() -> None:
    assert find_server_name(build_hello(build_extension(b"example.com."))) == "example.com"


def test_unusual_bytes_make_no_allowed_name() -> None:
    name = find_server_name(build_hello(build_extension(b"example.com\xff")))

    assert name not in {None, "", "example.com"}


@pytest.mark.parametrize(
    "sent",
    [
        b"\x15\3\1\0\2\1\0",  # an alert first
        b"\x14\3\3\0\1\1",
        b"\x17\3\3\0\1a",
        b"\x16\3\1\0\0",  # an empty record
        b"\x16\3\1\x40\1",  # a record that is too long
        b"\x16\3\1\0\1\2",  # another message
        b"\x16\3\1\0\4\1\xff\xff\xff",  # a hello that is too long
        b"\x16\3\1\0\1\1\x15\3\1\0\1\0",  # an alert between
        build_hello(build_extension(b"a.example") * 2),
        build_hello(build_extension(b"")),
        build_hello(build_extension(b"a.example", kind=1)),
        build_hello(b"\0\0" + pack(2, pack(2, b"\0" + pack(2, b"a.b") + b"\0" + pack(2, b"c.d")))),
        build_hello(b"\0\0" + pack(2, pack(2, b"\0" + pack(2, b"a.b")) + b"x")),
        build_hello(b"\0\0\0"),
        build_hello(b"\0\0\0\0"),
        build_hello(b"\0\0\0\x09" + bytes(3)),
        b"\x16\3\1" + pack(2, b"\1" + pack(3, b"\3\3")),
    ],
)
def test_ambiguous_hello_is_refused(sent: bytes) -> None:
    with pytest.raises(MalformedHelloError):
        find_server_name(sent)


def test_bytes_after_the_extensions_are_refused() -> None:
    hello = build_hello(build_extension(b"a.example"))
    body = hello[9:] + b"\0"

    with pytest.raises(MalformedHelloError, match="follow"):
        find_server_name(b"\x16\3\1" + pack(2, b"\1" + pack(3, body)))


def test_hello_of_many_records_is_refused() -> None:
    records = split_records(build_hello(bytes(MAX_RECORDS)), 1)

    with pytest.raises(MalformedHelloError, match="too many records"):
        find_server_name(records)


def test_long_hello_is_refused_before_more_is_kept() -> None:
    hello = build_hello(b"\xff\xff" + pack(2, bytes(MAX_HELLO - 200)))
    records = split_records(hello, 1 << 14)

    assert find_server_name(records) == ""
    with pytest.raises(MalformedHelloError):
        find_server_name(b"\x16\3\1\x40\0\1" + bytes((0, MAX_HELLO >> 8, 0)) + bytes(MAX_HELLO))


@given(st.binary(max_size=300))
def test_any_bytes_have_a_verdict(sent: bytes) -> None:
    for beginning in (b"", b"\x16\3\1", b"\x16\3\1\0\x50\1\0\0\x4c\3\3"):
        check_verdict(beginning + sent)


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=5))
def test_any_change_of_a_hello_has_a_verdict(changes: list[tuple[int, int]]) -> None:
    hello = bytearray(build_hello(build_extension(b"a.example") + b"\0\x0a" + pack(2, b"\0\2")))
    for place, value in changes:
        if place < len(hello):
            hello[place] = value

    check_verdict(bytes(hello))


def check_verdict(sent: bytes) -> None:
    """Check that the verdict on ``sent`` stays when more bytes follow, unless more are needed."""
    verdict = judge(sent)
    if verdict is not None:
        assert judge(sent + b"\0more") == verdict


def judge(sent: bytes) -> str | None:
    try:
        return find_server_name(sent)
    except MalformedHelloError:
        return "malformed"
