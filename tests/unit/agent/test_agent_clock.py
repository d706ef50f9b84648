"""Conditions under which a second Hello sets the clock."""

from __future__ import annotations

import pytest

from slipway_agent.guest_system import UNDERWAY_NS, is_clock_wrong

NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize("ahead", [0, 1, 20_000_000, UNDERWAY_NS - 1])
def test_clock_slightly_ahead_stays(ahead: int) -> None:
    assert not is_clock_wrong(NOW + ahead, NOW)


@pytest.mark.parametrize("ahead", [-1, -20_000_000, -UNDERWAY_NS, UNDERWAY_NS, 100 * UNDERWAY_NS])
def test_clock_behind_or_far_ahead_is_set(ahead: int) -> None:
    assert is_clock_wrong(NOW + ahead, NOW)
