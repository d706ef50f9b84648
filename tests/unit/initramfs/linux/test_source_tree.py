"""Unpacking of the source of Linux: which parts, and nothing outside of the directory."""

from __future__ import annotations

import io
import lzma
import tarfile
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.debian.archive import Package
from slipway_initramfs.disk.build_directories import BuildDirectory
from slipway_initramfs.disk.spool import Spool
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.linux.source_tree import find_source_package, unpack_source
from support.layer_writer import LayerWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOP = "linux-source-6.1"


def pack(fill: Callable[[LayerWriter], None]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as archive:
        fill(LayerWriter(archive))
    return output.getvalue()


def pack_source(fill: Callable[[LayerWriter], None]) -> bytes:
    def fill_all(add: LayerWriter) -> None:
        add.file(f"{TOP}/Makefile")
        fill(add)

    return lzma.compress(pack(fill_all), preset=0)


def package(archive: bytes, name: str = "linux-source-6.1.tar.xz") -> Spool:
    spool = Spool()
    spool.append(pack(lambda add: add.file(f"./usr/src/{name}", archive)))
    return spool


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Path]:
    """Unpack a source, and return the directory."""

    def unpack(spool: Spool, architecture: str = "amd64") -> Path:
        directory = tmp_path / "tree"
        directory.mkdir()
        unpack_source(spool, BuildDirectory(directory, None), architecture, tmp_path)
        return directory

    return unpack


def test_parts_that_no_guest_needs_are_left_out(unpack: Callable[..., Path]) -> None:
    kept = {
        *("Makefile", "kernel/fork.c", "arch/x86/Kconfig", "arch/x86/boot/a.S", "arch/Kconfig"),
        *("arch/mips/Kconfig", "drivers/gpu/drm/Makefile", "drivers/gpu/Kconfig.debug"),
        *("drivers/net/virtio_net.c", "tools/objtool/check.c", "Documentation/Kconfig"),
    }
    left = {
        *("arch/mips/kernel/a.c", "drivers/gpu/drm/a.c", "drivers/net/ethernet/b.c"),
        *("Documentation/index.rst", "sound/core.c", "tools/testing/x/y.c"),
    }
    names = sorted((kept | left) - {"Makefile"})

    def fill(add: LayerWriter) -> None:
        for name in names:
            add.file(f"{TOP}/{name}", name)

    tree = unpack(package(pack_source(fill)))

    found = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert found == kept
    assert (tree / "kernel/fork.c").read_text() == "kernel/fork.c"


def test_programs_stay_executable(unpack: Callable[..., Path]) -> None:
    def fill(add: LayerWriter) -> None:
        add.file(f"{TOP}/scripts/run.sh", "", mode=0o755)
        add.file(f"{TOP}/scripts/data", "", mode=0o6644)

    tree = unpack(package(pack_source(fill)))

    assert (tree / "scripts/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (tree / "scripts/data").stat().st_mode & 0o7777 == 0o644


def test_nothing_is_written_through_a_link(unpack: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()

    def fill(add: LayerWriter) -> None:
        add.symlink(f"{TOP}/inside", "../outside")
        add.file(f"{TOP}/inside/file", "x")

    with pytest.raises(BuildFailed, match="cannot write"):
        unpack(package(pack_source(fill)))

    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", [f"{TOP}/../up", "/absolute/x", f"{TOP}/a/../../../x"])
def test_a_path_that_leads_out_is_refused(unpack: Callable[..., Path], name: str) -> None:
    with pytest.raises(ImageError, match="has a file"):
        unpack(package(pack_source(lambda add: add.file(name))))


def test_a_link_to_an_absolute_path_is_refused(unpack: Callable[..., Path]) -> None:
    with pytest.raises(ImageError, match="has a link to '/etc'"):
        unpack(package(pack_source(lambda add: add.symlink(f"{TOP}/etc", "/etc"))))


def test_an_entry_that_is_no_file_is_refused(unpack: Callable[..., Path]) -> None:
    def fill(add: LayerWriter) -> None:
        member = tarfile.TarInfo(f"{TOP}/device")
        member.type = tarfile.CHRTYPE
        add.add(member)

    with pytest.raises(ImageError, match="unknown kind"):
        unpack(package(pack_source(fill)))


def test_a_damaged_archive_is_corrupted(unpack: Callable[..., Path]) -> None:
    archive = pack_source(lambda add: add.file(f"{TOP}/x", b"x" * 5000))

    with pytest.raises(ImageCorrupted, match="source of Linux is damaged"):
        unpack(package(archive[:-20]))


def test_a_package_without_the_archive_is_refused(unpack: Callable[..., Path]) -> None:
    with pytest.raises(ImageError, match="no archive"):
        unpack(package(b"", "linux-patch-6.1.patch.xz"))


def test_the_source_is_found_among_the_dependencies() -> None:
    packages = tuple(
        Package(name, "1", "all", "http://x/", 1, "0" * 64)
        for name in ("binutils", "linux-source", "linux-source-6.1")
    )

    assert find_source_package(packages).name == "linux-source-6.1"
    with pytest.raises(BuildFailed, match="does not depend on a source"):
        find_source_package(packages[:2])
