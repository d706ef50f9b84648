"""Sizes in texts: the same in host and image builder."""

from __future__ import annotations

import pytest

import slipway_initramfs.units
from slipway._util.units import MIB, format_mib, format_size, format_transfer, to_mebibytes


@pytest.mark.parametrize(
    ("size", "decimals", "text"),
    [
        (64 * MIB, 1, "64 MiB"),
        (3 * MIB // 2, 1, "1.5 MiB"),
        (3 * MIB // 2, 0, "2 MiB"),
        (1.25 * MIB, 2, "1.25 MiB"),
        (0, 1, "0 MiB"),
        (1, 1, "0.0 MiB"),
    ],
)
def test_size_in_mebibytes_has_decimals_only_where_needed(
    size: float, decimals: int, text: str
) -> None:
    assert format_mib(size, decimals) == text
    assert slipway_initramfs.units.format_mib(size, decimals) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1234, "1234 bytes"), (4096, "4 KiB"), (4 * MIB, "4 MiB"), (1 << 30, "1 GiB")],
)
def test_bound_has_the_largest_unit_that_divides_it(size: int, text: str) -> None:
    assert format_size(size) == text


def test_transfer_has_one_unit() -> None:
    assert format_transfer(7 * MIB // 2, 57 * MIB) == "3.5 of 57.0 MiB"


def test_column_of_a_table_has_whole_mebibytes() -> None:
    assert to_mebibytes(7 * MIB // 2 + 1) == 4
