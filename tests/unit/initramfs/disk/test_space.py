from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.disk import space
from slipway_initramfs.errors import DiskFull

if TYPE_CHECKING:
    from pathlib import Path


def test_enough_space_passes(tmp_path: Path) -> None:
    space.check_space("a test", (tmp_path, 1), (tmp_path / "not" / "there", 1))
    space.check_space_left(tmp_path)


def test_missing_space_is_reported_with_the_file_system_and_a_hint(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    half = found.f_bavail * found.f_frsize // 2 + (64 << 20)

    space.check_space("a test", (tmp_path, half))
    with pytest.raises(DiskFull) as caught:
        space.check_space("a test", (tmp_path / "a", half), (tmp_path / "b", half))

    message = caught.value.message
    assert message.startswith("a test needs about ")
    assert str(tmp_path) in message
    assert "MiB free" in message
    assert "--store" in caught.value.hint
    assert "slipway image prune" in caught.value.hint


def test_a_need_of_zero_fits_onto_a_full_disk(tmp_path: Path) -> None:
    space.check_space("a test", (tmp_path, 0))
