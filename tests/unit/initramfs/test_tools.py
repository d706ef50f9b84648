"""What of the base set of tools comes to a container image, and what does not."""

from __future__ import annotations

from slipway_initramfs import base, tools
from slipway_initramfs.tree import Tree

TRIPLET = "x86_64-linux-gnu"
LIBC = b"\x7fELF GNU C Library (Debian GLIBC) stable release version %d.%d.\n"


def ours() -> Tree:
    """A base set: merged as Debian's packages are."""
    tree = Tree()
    base.prepare(tree, "amd64")
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
    image = tools._Image(tree, "amd64", {"usr/bin", "bin", "usr/sbin", *places})
    image.add_all(ours())
    return {path for path, node in tree.walk() if not node.is_directory} - before


def content(tree: Tree, path: str) -> bytes:
    node = tree.find(path)
    assert node is not None
    return node.read(100)


def test_an_empty_image_gets_all_of_it_and_a_merged_usr() -> None:
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


def test_what_is_added_is_found_below_the_root_where_that_is_not_merged() -> None:
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
    assert tools._version(tree, "amd64") == ()
    tree.add_file(f"usr/lib/{TRIPLET}/libc.so.6", LIBC % (2, 31))
    assert tools._version(tree, "amd64") == (2, 31)
    assert tools._version(tree, "amd64") < tools.C_LIBRARY
