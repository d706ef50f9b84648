from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from slipway_initramfs.rootfs import loader_cache
from slipway_initramfs.rootfs.tree import Tree
from support.host_programs import need_program

if TYPE_CHECKING:
    from pathlib import Path

TRIPLET = "x86_64-linux-gnu"


def elf(machine: int = 62, kind: int = 2) -> bytes:
    """The beginning of a 64-bit program or library for a machine."""
    return b"\x7fELF" + bytes([kind]) + bytes(13) + machine.to_bytes(2, "little") + bytes(44)


def glibc(*libraries: str) -> Tree:
    """A tree with glibc's loader and these libraries."""
    tree = Tree()
    for path in (f"usr/lib/{TRIPLET}/ld-linux-x86-64.so.2", *libraries):
        tree.add_file(path, elf())
    tree.add_symlink("lib", "usr/lib")
    tree.add_symlink("lib64/ld-linux-x86-64.so.2", f"/lib/{TRIPLET}/ld-linux-x86-64.so.2")
    return tree


def names(tree: Tree, directory: Path) -> list[tuple[str, str]]:
    """Return the names and paths that ldconfig reads in the cache of a tree, in order."""
    loader_cache.add_loader_cache(tree, "amd64")
    node = tree.find(loader_cache.PATH)
    assert node is not None
    (directory / "cache").write_bytes(node.read(1 << 20))
    command = [need_program("ldconfig"), "-C", str(directory / "cache"), "-p"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return re.findall(r"^\t(\S+) \(libc6,x86-64\) => (\S+)$", done.stdout, re.MULTILINE)


def test_ldconfig_reads_the_cache_in_the_loaders_order(tmp_path: Path) -> None:
    tree = glibc(*(f"usr/lib/{TRIPLET}/libx.so.{number}" for number in (2, 10, 9)))
    tree.add_file(f"usr/lib/{TRIPLET}/libz.so.1.2.13", elf())
    tree.add_symlink(f"usr/lib/{TRIPLET}/libz.so.1", "libz.so.1.2.13")

    found = names(tree, tmp_path)

    assert found == [
        ("libz.so.1", f"/lib/{TRIPLET}/libz.so.1"),
        ("libx.so.10", f"/lib/{TRIPLET}/libx.so.10"),
        ("libx.so.9", f"/lib/{TRIPLET}/libx.so.9"),
        ("libx.so.2", f"/lib/{TRIPLET}/libx.so.2"),
        ("ld-linux-x86-64.so.2", f"/lib/{TRIPLET}/ld-linux-x86-64.so.2"),
        ("ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2"),
    ]


def test_configured_directories_come_first_and_others_libraries_not_at_all(tmp_path: Path) -> None:
    tree = glibc("opt/lib/libx.so.1", f"usr/lib/{TRIPLET}/libx.so.1")
    tree.add_file("etc/ld.so.conf", b"include ld.so.conf.d/*.conf # more\ninclude ld.so.conf\n")
    tree.add_file("etc/ld.so.conf.d/x.conf", b"/opt/lib\n/nowhere\nrelative\n")
    tree.add_file(f"usr/lib/{TRIPLET}/libarm.so.1", elf(183))
    tree.add_file(f"usr/lib/{TRIPLET}/lib32.so.1", elf(kind=1))
    tree.add_file(f"usr/lib/{TRIPLET}/libc.so", b"/* GNU ld script */")
    tree.add_symlink(f"usr/lib/{TRIPLET}/libgone.so.1", "nowhere")

    found = names(tree, tmp_path)

    assert [path for name, path in found if name == "libx.so.1"] == [
        "/opt/lib/libx.so.1",
        f"/lib/{TRIPLET}/libx.so.1",
    ]
    assert len(found) == 4


def test_hostile_configuration_is_read_once_and_in_part(tmp_path: Path) -> None:
    tree = glibc("opt/lib/libx.so.1")
    tree.add_symlink(f"usr/lib/{TRIPLET}/libloop.so.1", "libloop.so.1")
    tree.add_file("etc/ld.so.conf", b"/opt/lib\n" + b"include *\n" * 3000)
    tree.add_file("etc/other.conf", b"/a/../..\n/\0\n" + b"include ../x/*\ninclude /etc/*\n" * 1000)
    tree.add_file("etc/long.conf", b"include " + b"[" * 60_000 + b"\n/" + b"x/" * 5000 + b"\n")

    assert ("libx.so.1", "/opt/lib/libx.so.1") in names(tree, tmp_path)


def test_no_cache_is_written_for_another_loader() -> None:
    tree = Tree()
    tree.add_file("lib/ld-musl-x86_64.so.1", elf())

    loader_cache.add_loader_cache(tree, "amd64")

    assert tree.find(loader_cache.PATH) is None
