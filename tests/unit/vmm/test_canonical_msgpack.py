"""The part of msgpack that snapshots are written in."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.vmm.snapshot import canonical_msgpack as pack

fast = settings(deadline=None, derandomize=True, database=None, max_examples=300)

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(0, (1 << 64) - 1)
    | st.binary(max_size=400)
    | st.text(max_size=80)
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20)
    ),
    max_leaves=40,
)


def depth(value: object) -> int:
    items = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(map(depth, items), default=0) if isinstance(items, list) else 0


@given(VALUES.filter(lambda value: depth(value) <= pack.MAX_DEPTH))
@fast
def test_what_was_packed_is_unpacked(value: object) -> None:
    data = pack.pack(value)

    assert pack.unpack(data) == value
    assert msgpack.unpackb(data) == value


@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 65535, 65536])
def test_every_length_has_its_form(size: int) -> None:
    value = [bytes(size), "x" * size, [None] * size, {str(n): n for n in range(size)}]

    data = pack.pack(value)

    assert pack.unpack(data) == value
    assert msgpack.unpackb(data, max_map_len=1 << 20) == value


@given(st.binary(max_size=60))
@fast
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        value = pack.unpack(data)
    except ValueError:
        return

    assert pack.pack(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x01",  # two values
        b"\xcc\x01",  # a number that has a shorter form
        b"\xd0\xff",  # a negative number
        b"\xcb" + bytes(8),  # a float
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",  # a list that is not there
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x01\x01",  # a key that is no text
        b"\x82\xa1a\x01\xa1a\x01",  # a key twice
        b"\xa1\xff",  # no UTF-8
        b"\x91" * 5000 + b"\xc0",
    ],
)
def test_what_pack_does_not_write_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        pack.unpack(data)


@pytest.mark.parametrize("value", [-1, 1 << 64, 1.5, object(), {1: 2}])
def test_what_has_no_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        pack.pack(value)
