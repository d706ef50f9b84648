"""Configuration of the small kernel: its files, their rules, and Kconfig's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.linux.configuration import find_directory, read_configuration

if TYPE_CHECKING:
    from pathlib import Path


def write(directory: Path, common: str, own: str = "") -> Path:
    (directory / "common.config").write_text(common)
    (directory / "amd64.config").write_text(own)
    return directory


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_options_of_both_files_are_wanted(architecture: str) -> None:
    found = read_configuration(architecture)

    assert found.options["CONFIG_VIRTIO_CONSOLE"] == "y"
    assert found.options["CONFIG_LOCALVERSION"] == '"-slipway"'
    assert ("CONFIG_SERIAL_AMBA_PL011" in found.options) == (architecture == "arm64")
    assert not any(name.startswith("CONFIG_MODULES") for name in found.options)


@pytest.mark.parametrize("name", ["common", "amd64", "arm64"])
def test_every_group_of_options_has_its_reason(name: str) -> None:
    text = (find_directory() / f"{name}.config").read_text()

    groups = text.strip().split("\n\n")

    assert [group for group in groups if not group.startswith("# ")] == []


def test_the_digest_is_that_of_the_options_alone(tmp_path: Path) -> None:
    texts = (("CONFIG_A=y\n",), ("CONFIG_A=1\n",), ("# why\n", "CONFIG_A=y\n"))

    one, other, commented = (
        read_configuration("amd64", write(tmp_path, *parts)).sha256 for parts in texts
    )

    assert one == commented != other


@pytest.mark.parametrize(
    "line", ["CONFIG_A=m", "CONFIG_A=n", "A=y", "CONFIG_A", 'CONFIG_A="x', "# CONFIG_B\nCONFIG_a=y"]
)
def test_a_line_that_is_no_option_is_named_with_its_place(tmp_path: Path, line: str) -> None:
    with pytest.raises(BuildFailed, match=r"amd64\.config, line \d: 'A?.*' is no option"):
        read_configuration("amd64", write(tmp_path, "CONFIG_OTHER=y\n", line))


def test_an_option_stands_in_one_file_only(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"amd64\.config, line 2: .* twice"):
        read_configuration("amd64", write(tmp_path, "CONFIG_A=y\n", "\nCONFIG_A=y\n"))


def test_an_architecture_without_a_file_is_refused() -> None:
    with pytest.raises(BuildFailed, match="no small kernel for the architecture 'riscv64'"):
        read_configuration("riscv64")


def test_options_that_kconfig_has_refused_are_named(tmp_path: Path) -> None:
    wanted = read_configuration("amd64", write(tmp_path, "CONFIG_A=y\nCONFIG_B=5\nCONFIG_C=y\n"))

    wanted.check_result("CONFIG_C=y\nCONFIG_B=5\nCONFIG_A=y\nCONFIG_D=y\n")
    with pytest.raises(BuildFailed, match="has no CONFIG_A=y, CONFIG_B=5,"):
        wanted.check_result("# CONFIG_A is not set\nCONFIG_B=4\nCONFIG_C=y\n")
