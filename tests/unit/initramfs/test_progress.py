"""Sentences about the progress of a build."""

from __future__ import annotations

import pytest

from slipway_initramfs.progress import format_count


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 packages"), (1, "1 package"), (2, "2 packages")]
)
def test_noun_is_singular_after_one_only(number: int, text: str) -> None:
    assert format_count(number, "package") == text
