from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway._mcp.excerpt import HEAD, TAIL, Excerpt


def excerpt(*pieces: bytes) -> Excerpt:
    made = Excerpt()
    for piece in pieces:
        made.add(piece)
    return made


@given(st.lists(st.integers(1, HEAD), max_size=8))
def test_beginning_and_end_are_kept_from_any_pieces(sizes: list[int]) -> None:
    whole = "".join(chr(ord("a") + number % 26) for number in range(sum(sizes)))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(whole[at : at + size].encode())
        at += size

    made = excerpt(*pieces)

    if len(whole) <= HEAD + TAIL:
        assert (made.render(), made.truncated) == (whole, False)
    else:
        left_out = len(whole) - HEAD - TAIL
        gap = f"\n[... {left_out} bytes left out ...]\n"
        assert made.render() == whole[:HEAD] + gap + whole[-TAIL:]
        assert made.truncated
    assert made.size == len(whole)


def test_holds_only_the_excerpt_and_one_piece() -> None:
    made = excerpt(*[bytes([65 + number % 26]) * 1000 for number in range(10_000)])

    assert sum(map(len, made._tail)) < TAIL + 1000


@pytest.mark.parametrize("shift", range(4))
def test_leaves_out_characters_that_the_gap_cuts(shift: int) -> None:
    made = excerpt(b"-" * shift, "\N{PILE OF POO}".encode() * 20_000, b"-" * (3 - shift))

    assert "\N{REPLACEMENT CHARACTER}" not in made.render()


def test_invalid_utf_8_is_replaced() -> None:
    assert excerpt(b"a\xffb").render() == "a\N{REPLACEMENT CHARACTER}b"
    assert excerpt(b"\x80" * (HEAD + TAIL + 1)).render().endswith("\N{REPLACEMENT CHARACTER}")
