"""HTTP answers as a client reads them: whole, in pieces, too long, and wrong."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._remote.http_message import (
    MAX_ANSWER,
    MAX_CHUNK_LINE,
    MAX_HEAD,
    AnswerParser,
    encode_request,
)
from slipway._util.errors import InputError, UnknownOutcome

PLAIN = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;name=value\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
)
UNTIL_END = b"HTTP/1.0 503 \r\nServer: x\r\n\r\nbusy"


def parse(*pieces: bytes) -> AnswerParser:
    parser = AnswerParser()
    for piece in (*pieces, b""):
        parser.feed(piece)
    return parser


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (PLAIN, 201, b"{}"),
        (CHUNKED, 200, b"abc0123456789"),
        (UNTIL_END, 503, b"busy"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 X\r\nA: b\r\n\r\n" + PLAIN, 201, b"{}"),
        (PLAIN + b"HTTP/1.1 200 OK\r\n", 201, b"{}"),
    ],
)
def test_answer_is_complete_with_its_body(answer: bytes, status: int, body: bytes) -> None:
    parser = parse(answer)

    assert (parser.is_complete, parser.status, bytes(parser.body)) == (True, status, body)


@given(
    answer=st.sampled_from([PLAIN, CHUNKED, UNTIL_END]),
    cuts=st.lists(st.integers(0, 120), max_size=8),
)
def test_pieces_make_the_same_answer(answer: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[a:b] for a, b in pairwise(places)]

    parser, whole = parse(*pieces), parse(answer)

    assert (parser.is_complete, parser.status, parser.body) == (True, whole.status, whole.body)


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED])
def test_answer_that_breaks_off_is_not_complete(answer: bytes) -> None:
    for end in range(len(answer)):
        assert not parse(answer[:end]).is_complete


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n", "not a status line"),
        (b"HTTP/2 200\r\n\r\n", "not a status line"),
        (b"HTTP/1.1 20\r\n\r\n", "not a status line"),
        (b"HTTP/1.1 2000 X\r\n\r\n", "not a status line"),
        (b"HTTP/1.1 600 X\r\n\r\n", "unknown status 600"),
        (b"HTTP/1.1 101 X\r\n\r\n", "switches to another protocol"),
        (b"HTTP/1.1 200 X\r\nno field\r\n\r\n", "not a header field"),
        (b"HTTP/1.1 200 X\r\nA: b\r\n folded\r\n\r\n", "not a header field"),
        (b"HTTP/1.1 200 X\r\nA : b\r\n\r\n", "not a header field"),
        (b"HTTP/1.1 200 X\r\nA: b\nContent-Length: 1\r\n\r\n", "a line end in it"),
        (b"HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n", "invalid length"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 1, 1\r\n\r\n", "invalid length"),
        (b"HTTP/1.1 200 X\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n", "invalid length"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "two lengths"),
        (
            b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "two lengths",
        ),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "unknown transfer coding"),
        (b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\n\r\n", "compressed"),
        (CHUNKED.replace(b"3;", b"-3;"), "size of a chunk"),
        (CHUNKED.replace(b"3;", b"123456789;"), "size of a chunk"),
        (CHUNKED.replace(b"abc", b"abcd"), "longer than its size"),
        (CHUNKED.replace(b"value", b"v" * MAX_CHUNK_LINE), "the size of a chunk without an end"),
        (CHUNKED.replace(b": x", b": " + b"x" * MAX_HEAD), "trailer fields without an end"),
        (b"HTTP/1.1 200 X\r\nA: " + b"x" * MAX_HEAD, "header fields without an end"),
        (b"HTTP/1.1 100 X\r\n\r\n" * (MAX_HEAD // 10), "header fields without an end"),
        (b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % (MAX_ANSWER + 1), "more than 1048576"),
        (b"HTTP/1.1 200 X\r\n\r\n" + b"x" * (MAX_ANSWER + 1), "more than 1048576"),
        (CHUNKED.replace(b"A\r", b"%x\r" % MAX_ANSWER), "more than 1048576"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_invalid_answer_is_refused(answer: bytes, reason: str) -> None:
    with pytest.raises(UnknownOutcome, match=reason) as caught:
        parse(answer)

    assert len(caught.value.message) < 200


@given(data=st.binary(max_size=300), cut=st.integers(0, 300))
def test_no_bytes_raise_another_error(data: bytes, cut: int) -> None:
    for start in (
        b"",
        b"HTTP/1.1 200 X\r\n",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n",
    ):
        try:
            parser = parse(start + data[:cut], data[cut:])
        except UnknownOutcome:
            continue
        assert len(parser.body) <= len(data)


@pytest.mark.parametrize("body", [None, b"", b'{"a": 1}'])
def test_request_is_what_another_parser_reads(body: bytes | None) -> None:
    server = h11.Connection(h11.SERVER)

    server.receive_data(encode_request("POST", "/v1/start?a=b", body, {"Slipway-Key": "me too"}))
    events = [server.next_event()]
    while type(events[-1]) is not h11.EndOfMessage:
        events.append(server.next_event())

    request = events[0]
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (b"POST", b"/v1/start?a=b")
    assert (b"slipway-key", b"me too") in list(request.headers)
    data = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))
    assert data == (body or b"")


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/v1/runs/a b", {}),
        ("/v1/runs/\r\nX: y", {}),
        ("/v1/runs/ä", {}),
        ("", {}),
        ("/", {"Slipway-Key": "a\r\nX: y"}),
        ("/", {"A B": "x"}),
    ],
)
def test_request_that_http_cannot_hold_is_refused(target: str, headers: dict[str, str]) -> None:
    with pytest.raises(InputError, match="cannot be sent in a request"):
        encode_request("GET", target, None, headers)
