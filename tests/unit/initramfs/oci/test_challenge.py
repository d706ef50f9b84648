from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.oci.challenge import (
    MAX_CHALLENGES,
    MAX_PARAMETERS,
    Challenge,
    parse_challenges,
)

REALM = {"realm": "https://auth.example/token", "service": "registry.example"}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [Challenge("basic")]),
        ('Basic realm="a, b"', [Challenge("basic", {"realm": "a, b"})]),
        ('BASIC REALM = "x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://auth.example/token",service="registry.example"',
            [Challenge("bearer", REALM)],
        ),
        (
            'Basic realm="x", Bearer service=registry.example, realm=https://auth.example/token',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", REALM)],
        ),
        (
            "Bearer scope=repository:a/b:pull",
            [Challenge("bearer", {"scope": "repository:a/b:pull"})],
        ),
        (r'Basic realm="say \"x\""', [Challenge("basic", {"realm": 'say "x"'})]),
        ("Negotiate YII==, Basic", [Challenge("negotiate"), Challenge("basic")]),
        ('Bearer realm="a", realm="b"', [Challenge("bearer", {"realm": "a"})]),
        (" , ,Basic , ", [Challenge("basic")]),
        ('Bearer realm="open', [Challenge("bearer")]),
        ('"nonsense"', []),
    ],
)
def test_reads_challenges(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges([header]) == expected


def test_reads_several_headers() -> None:
    assert parse_challenges(["Basic", "Bearer realm=x"]) == [
        Challenge("basic"),
        Challenge("bearer", {"realm": "x"}),
    ]


def test_keeps_a_bounded_number() -> None:
    parameters = ",".join(f"p{number}=x" for number in range(1000))

    found = parse_challenges([f"a {parameters}", *["b"] * 1000])

    assert len(found) == MAX_CHALLENGES
    assert len(found[0].parameters) == MAX_PARAMETERS


@given(
    st.lists(st.text(st.sampled_from('aB=", \\\t:/') | st.characters(), max_size=60), max_size=4)
)
def test_reads_anything(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme
