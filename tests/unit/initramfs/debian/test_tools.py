"""Additions of the base set of tools to container images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from slipway_initramfs.debian import tools
from slipway_initramfs.debian.archive import Package
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.rootfs import defaults, programs
from slipway_initramfs.rootfs.tree import Tree
from support.layers import file, layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from slipway_initramfs.disk.spool import Spool
    from slipway_initramfs.store.image_store import ImageStore

TRIPLET = "x86_64-linux-gnu"
LIBC = b"\x7fELF GNU C Library (Debian GLIBC) stable release version %d.%d.\n"


def ours() -> Tree:
    """A base set: merged as Debian's packages are."""
    tree = Tree()
    defaults.merge_usr(tree, "amd64")
    for path in (
        "usr/bin/bash", "usr/bin/ls", "usr/bin/sort", "usr/sbin/chroot", "etc/services",
        f"usr/lib/{TRIPLET}/libtinfo.so.6.4", f"usr/lib/{TRIPLET}/libproc2.so.0.0.1",
        "usr/lib/terminfo/x/xterm", "usr/share/zoneinfo/UTC",
    ):  # fmt: skip
        tree.add_file(path, b"ours")
    tree.add_symlink(f"usr/lib/{TRIPLET}/libtinfo.so.6", "libtinfo.so.6.4")
    tree.add_symlink(f"usr/lib/{TRIPLET}/libproc2.so.0", "libproc2.so.0.0.1")
    return tree


def add(tree: Tree, *places: str) -> set[str]:
    """Add our base set; return the paths that are new."""
    before = {path for path, _ in tree.walk()}
    image = tools.ToolTarget(tree, "amd64", {"usr/bin", "bin", "usr/sbin", *places})
    image.add_all(ours())
    return {path for path, node in tree.walk() if not node.is_directory} - before


def content(tree: Tree, path: str) -> bytes:
    node = tree.find(path)
    assert node is not None
    return node.read(100)


def test_an_empty_image_gets_all_tools_and_a_merged_usr() -> None:
    tree = Tree()

    add(tree)

    assert content(tree, "bin/bash") == content(tree, "usr/bin/bash") == b"ours"
    assert content(tree, f"lib/{TRIPLET}/libproc2.so.0") == b"ours"
    assert content(tree, "etc/services") == b"ours"


def test_a_program_that_the_image_has_anywhere_stays_the_images() -> None:
    tree = Tree()
    tree.add_file("bin/busybox", b"theirs")
    tree.add_symlink("bin/ls", "/bin/busybox")
    tree.add_file("opt/tools/sort", b"theirs")
    tree.add_file("etc/services", b"theirs")

    new = add(tree, "opt/tools")

    assert "etc/services" not in new
    for path in ("bin/ls", "usr/bin/ls", "usr/bin/sort", "bin/sort", "etc/services"):
        assert content(tree, path) == b"theirs"


def test_added_tools_are_linked_below_an_unmerged_root() -> None:
    tree = Tree()
    tree.add_file("bin/busybox", b"theirs")
    tree.add_file("lib/ld-musl-x86_64.so.1", b"theirs")

    add(tree)

    for path in ("bin/bash", f"lib/{TRIPLET}/libtinfo.so.6", "lib/terminfo/x/xterm", "sbin/chroot"):
        assert content(tree, path) == b"ours"


def test_a_library_that_the_image_has_in_another_version_is_not_mixed_with_ours() -> None:
    tree = Tree()
    tree.add_symlink("lib", "usr/lib")
    tree.add_file(f"usr/lib/{TRIPLET}/libtinfo.so.6.5", b"theirs")
    tree.add_symlink(f"usr/lib/{TRIPLET}/libtinfo.so.6", "libtinfo.so.6.5")

    new = add(tree)

    assert f"usr/lib/{TRIPLET}/libtinfo.so.6.4" not in new
    assert f"usr/lib/{TRIPLET}/libproc2.so.0.0.1" in new
    assert content(tree, f"usr/lib/{TRIPLET}/libtinfo.so.6") == b"theirs"


def test_a_file_where_we_have_a_directory_stays() -> None:
    tree = Tree()
    tree.add_file("usr/share/zoneinfo", b"theirs")

    add(tree)

    assert content(tree, "usr/share/zoneinfo") == b"theirs"


def test_the_version_of_an_images_c_library_is_read() -> None:
    tree = Tree()
    assert tools.find_c_library_version(tree, "amd64") == ()
    tree.add_file(f"usr/lib/{TRIPLET}/libc.so.6", LIBC % (2, 31))
    assert tools.find_c_library_version(tree, "amd64") == (2, 31)
    assert tools.find_c_library_version(tree, "amd64") < tools.C_LIBRARY


def test_hostile_library_and_search_path_are_those_of_an_image_without() -> None:
    tree = Tree()
    tree.add_file("usr/bin/which", b"theirs", 0o755)
    tree.add_file(f"usr/lib/{TRIPLET}/libc.so.6", LIBC.replace(b"%d", b"9" * 5000))
    tree.add_symlink("loop", "loop")

    assert tools.find_c_library_version(tree, "amd64") == ()
    assert "usr/bin/bash" in add(tree, "opt/../../bin", "a\0b", "loop", "x/" * 3000)
    assert programs.has_program(tree, "which", "/../bin:/loop:/usr/bin")
    assert not programs.has_program(tree, "which", "/../bin:/loop:/a\0b")


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Packages with these files each, by their names."""

    files: dict[str, tuple[str, ...]]
    architecture: str = "amd64"

    def layers(self) -> Iterator[tuple[Package, Spool]]:
        for name, paths in self.files.items():
            spool = layer(*(file(path, b"ours") for path in paths))
            yield Package(name, "1", "amd64", "", 0, ""), spool

    def scripts(self) -> Iterator[str]:
        yield "update-alternatives --install /usr/bin/which which /usr/bin/which.debianutils 0"


DOWNLOADED = Downloaded(
    {
        "libc6": (f"usr/lib/{TRIPLET}/libc.so.6", f"usr/lib/{TRIPLET}/gconv/SJIS.so"),
        "perl-base": ("usr/bin/perl", f"usr/lib/{TRIPLET}/perl-base/strict.pm"),
        "debianutils": ("usr/bin/which.debianutils",),
        "tzdata": ("usr/share/zoneinfo/Asia/Tokyo",),
    }
)


def add_tools(tree: Tree) -> tuple[set[str], list[str]]:
    """Add the downloaded tools; return all paths, and the warnings."""
    warnings = tools.Tools(cast("Any", DOWNLOADED)).add(tree, "/usr/bin:/bin")
    return {path for path, node in tree.walk() if not node.is_directory}, warnings


def glibc(major: int, minor: int) -> Tree:
    tree = Tree()
    tree.add_file("lib64/ld-linux-x86-64.so.2", b"theirs")
    tree.add_file(f"usr/lib/{TRIPLET}/libc.so.6", LIBC % (major, minor))
    return tree


def test_files_of_the_c_library_come_only_to_images_without_one() -> None:
    paths, warnings = add_tools(Tree())
    assert {f"usr/lib/{TRIPLET}/gconv/SJIS.so", "usr/bin/which", "usr/bin/perl"} <= paths
    assert warnings == []

    paths, warnings = add_tools(glibc(2, 41))
    assert f"usr/lib/{TRIPLET}/gconv/SJIS.so" not in paths
    assert {"usr/bin/which", "usr/bin/perl"} <= paths
    assert warnings == []


def test_an_image_with_an_older_c_library_gets_data_and_a_warning() -> None:
    paths, (warning,) = add_tools(glibc(2, 31))

    assert "usr/share/zoneinfo/Asia/Tokyo" in paths
    assert not {"usr/bin/which", "usr/bin/perl"} & paths
    assert "they need glibc 2.36, and the image has 2.31" in warning


def test_perl_of_the_image_is_not_mixed_with_our_modules() -> None:
    tree = Tree()
    tree.add_file("usr/bin/perl", b"theirs")

    paths, _ = add_tools(tree)

    assert f"usr/lib/{TRIPLET}/perl-base/strict.pm" not in paths
    assert content(tree, "usr/bin/perl") == b"theirs"


def test_without_packages_an_image_has_a_warning_instead_of_tools(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    found = tools.Tools.resolve(store, "amd64", False, BuildProgress())

    (warning,) = found.add(Tree(), "")
    assert warning.startswith("the base set of tools is missing: ")
    assert "apt-get" in warning
    assert found.manifest() == {"tools": []}
