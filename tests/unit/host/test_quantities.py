"""Times and sizes of a command line."""

from __future__ import annotations

import argparse

import pytest

from slipway._cli.quantities import parse_duration, parse_seconds, parse_size
from slipway._util.units import MIB


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0.25", 0.25),
        (".5s", 0.5),
        ("5s", 5),
        ("5 sec", 5),
        ("500ms", 0.5),
        ("2m", 120),
        ("1.5min", 90),
        ("1h", 3600),
        ("1e2", 100),
        ("-1", -1),
    ],
)
def test_time_is_read(text: str, value: float) -> None:
    assert parse_seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512", 512 * MIB),
        ("512b", 512),
        ("64K", 65536),
        ("64kB", 65536),
        ("64KiB", 65536),
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512 MB", 512 * MIB),
        ("1GB", 1024 * MIB),
        ("1.5g", 1536 * MIB),
        ("2GiB", 2048 * MIB),
        ("1T", MIB * MIB),
        ("-5", -5 * MIB),
    ],
)
def test_size_is_read(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("read", [parse_seconds, parse_size])
@pytest.mark.parametrize(
    "text", ["", " ", "x", "5x", "5 5", "nan", "inf", "1e999", "s", "5sK", "0x10", "1_000", "٣"]
)
def test_what_is_no_quantity_is_refused(read: type, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a"):
        read(text)


def test_duration_is_not_negative() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="negative"):
        parse_duration("-1")
