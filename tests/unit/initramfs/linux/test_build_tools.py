"""Programs that compile a kernel: missing ones are named with their packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.linux.build_tools import build_environment, find_build_tools

if TYPE_CHECKING:
    from pathlib import Path


def test_all_missing_programs_are_named_with_one_command(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="takes gcc, make, flex, bison, bc, perl, ld") as raised:
        find_build_tools(machine_architecture(), str(tmp_path))

    assert "apt-get install bc binutils bison flex gcc libc6-dev make perl" in raised.value.hint


def test_another_architecture_takes_a_cross_compiler(tmp_path: Path) -> None:
    other, name = {
        "amd64": ("arm64", "gcc-aarch64-linux-gnu"),
        "arm64": ("amd64", "gcc-x86-64-linux-gnu"),
    }[machine_architecture()]

    with pytest.raises(BuildFailed) as raised:
        find_build_tools(other, str(tmp_path))

    assert name in raised.value.hint


def test_programs_of_a_build_have_no_variables_of_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-n")
    monkeypatch.setenv("KCFLAGS", "-O0")

    assert not {"MAKEFLAGS", "KCFLAGS"} & set(build_environment())
