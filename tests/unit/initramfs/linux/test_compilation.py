"""Compilation, with the real make and compiler in a source tree of a few lines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.disk import build_directories
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.linux.build_tools import BuildTools
from slipway_initramfs.linux.compilation import Compilation, CompiledKernel
from slipway_initramfs.linux.configuration import KernelConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slipway_initramfs.disk.build_directories import BuildDirectory

pytestmark = [
    pytest.mark.debian("make", "gcc", "objcopy"),
    pytest.mark.skipif(machine_architecture() != "amd64", reason="its kernel is an ELF file"),
]

# Targets and files that a compilation uses of Linux's.
MAKEFILE = """
allnoconfig:
\tcp $(KCONFIG_ALLCONFIG) .config
\tmkdir -p include/config
\techo 6.1.0-toy > include/config/kernel.release
vmlinux:
\t@echo '  CC      kernel/fork.o'
\tid -u > user; id -G > groups; env > environment; cat /proc/self/status > status
\techo '$(KBUILD_BUILD_USER) $(KBUILD_BUILD_TIMESTAMP) $(ARCH) $(CROSS_COMPILE)' > marks
\techo 'int main(void) { return 0; }' > main.c
\tgcc -g -o $@ main.c
"""
CONFIGURATION = KernelConfiguration("amd64", "CONFIG_A=y\n", {"CONFIG_A": "y"})


@pytest.fixture
def place(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BuildDirectory]:
    monkeypatch.setenv("TMPDIR", str(open_tmp_path))
    with build_directories.make_directory(open_tmp_path) as place:
        (place.path / "Makefile").write_text(MAKEFILE)
        yield place


def compile_kernel(
    place: BuildDirectory,
    makefile: str = MAKEFILE,
    report: Callable[[str], None] = lambda _: None,
) -> CompiledKernel:
    (place.path / "Makefile").write_text(makefile)
    tools = BuildTools("amd64", "", "gcc 12")
    return Compilation(place, tools).compile(CONFIGURATION, report)


def test_the_kernel_has_neither_symbols_nor_debug_information(place: BuildDirectory) -> None:
    lines: list[str] = []

    kernel = compile_kernel(place, report=lines.append)

    assert kernel.release == "6.1.0-toy"
    assert kernel.image.startswith(b"\x7fELF")
    assert b".debug_info" not in kernel.image
    assert lines == ["compiling 1: kernel/fork.o"]


def test_make_is_told_what_makes_builds_alike(
    place: BuildDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCFLAGS", "-O0")

    compile_kernel(place)

    marks = (place.path / "marks").read_text()
    assert marks == "slipway Thu Jan  1 00:00:00 UTC 1970 x86_64 \n"
    assert "KCFLAGS" not in (place.path / "environment").read_text()


def test_make_cannot_get_rights(place: BuildDirectory) -> None:
    compile_kernel(place)

    status = (place.path / "status").read_text()
    assert "NoNewPrivs:\t1\n" in status
    if os.geteuid() == 0:
        assert (place.path / "user").read_text() == f"{build_directories.NOBODY}\n"
        assert (place.path / "groups").read_text() == f"{build_directories.NOBODY}\n"
        assert "CapEff:\t0000000000000000\n" in status


def test_the_first_error_of_the_compiler_is_told(place: BuildDirectory) -> None:
    broken = MAKEFILE.replace("return 0;", "return x;")

    with pytest.raises(BuildFailed, match=r"compiling the kernel failed: main\.c:1.*error.*'x'"):
        compile_kernel(place, broken)


def test_an_option_that_kconfig_refuses_ends_the_build_before_it_compiles(
    place: BuildDirectory,
) -> None:
    with pytest.raises(BuildFailed, match="CONFIG_A=y"):
        compile_kernel(place, MAKEFILE.replace("cp $(KCONFIG_ALLCONFIG)", "echo >"))

    assert not (place.path / "vmlinux").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ln -sf /etc/passwd", "has no"),
        ("mkfifo", "no plain file"),
        ("mkdir", "has no|no plain file"),
        ("head -c 999 /dev/zero >", "longer than 200"),
        ("printf 'x\\033[2J' >", "unusual release"),
    ],
)
def test_files_of_the_build_are_read_with_care(
    place: BuildDirectory, change: str, reason: str
) -> None:
    release = "include/config/kernel.release"
    makefile = f"{MAKEFILE}\trm {release}; {change} {release}\n"

    with pytest.raises(BuildFailed, match=reason):
        compile_kernel(place, makefile)


def test_a_kernel_that_is_no_elf_file_is_refused(place: BuildDirectory) -> None:
    makefile = MAKEFILE.replace("gcc -g -o $@ main.c", "echo text > $@")

    with pytest.raises(BuildFailed, match="stripping the kernel failed"):
        compile_kernel(place, makefile)
