"""Long JSON in pieces, and the form of bytes in JSON."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._util.data_form import MAX_ALWAYS_TEXT, encode_data
from slipway._wire.fields import decode_data
from slipway._wire.json_pieces import TEXT_PIECE, iterate_json, join_pieces

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda each: st.lists(each) | st.dictionaries(st.text(max_size=5), each), max_leaves=20
)
# Bytes of one character of text in JSON, at most: a pair of surrogates, escaped.
LONGEST_CHARACTER = 12


@given(VALUES)
def test_pieces_are_the_same_json(value: Any) -> None:
    expected = json.dumps(value, separators=(",", ":")).encode()

    assert b"".join(iterate_json(value)) == expected
    assert b"".join(join_pieces(iterate_json(value), 7)) == expected


@pytest.mark.parametrize("character", ["x", "\0", "\u20ac", "\U0001f600", '"'])
def test_long_text_comes_in_bounded_pieces(character: str) -> None:
    value = {"files": [{"text": character * (3 * TEXT_PIECE + 1)}]}

    pieces = list(iterate_json(value))

    assert json.loads(b"".join(pieces)) == value
    assert max(map(len, pieces)) <= LONGEST_CHARACTER * TEXT_PIECE


def test_joined_pieces_are_neither_small_nor_large() -> None:
    pieces = list(join_pieces(iterate_json({"text": "x" * 10 * TEXT_PIECE})))

    assert all(TEXT_PIECE <= len(piece) < 3 * TEXT_PIECE for piece in pieces[:-1])
    assert len(pieces) <= 11


@pytest.mark.parametrize(
    ("data", "form"),
    [
        pytest.param(b"hello\n", "text", id="text"),
        pytest.param(b"\xff", "base64", id="no UTF-8"),
        pytest.param(bytes(MAX_ALWAYS_TEXT), "text", id="few NULs"),
        pytest.param(bytes(MAX_ALWAYS_TEXT + 1), "base64", id="many NULs"),
        pytest.param(b"line\tof text\r\n" * 1000, "text", id="white space"),
        pytest.param("\u65e5\u672c\u8a9e\n".encode() * 1000, "text", id="Japanese"),
        pytest.param(b"\x1b[31mred" * 1000, "base64", id="more escapes than one in 15"),
        pytest.param(b"\x1b[31mmany more letters" * 1000, "text", id="fewer escapes"),
    ],
)
def test_bytes_are_text_unless_base64_is_needed_or_shorter(data: bytes, form: str) -> None:
    record = encode_data(data)

    assert list(record) == [form]
    assert decode_data(record) == data
    if form == "base64" and len(data) > MAX_ALWAYS_TEXT:
        assert len(base64.b64encode(data)) < len(json.dumps(data.decode())) or not data.isascii()
