from __future__ import annotations

import pytest

from slipway_initramfs.rootfs import alternatives
from slipway_initramfs.rootfs.alternatives import Alternative
from slipway_initramfs.rootfs.tree import Tree

# As the packages of Debian 12 have it.
MAWK = """\
case "$1" in
    configure)
        update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\
            --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/mawk.1.gz \\
            --slave /usr/bin/nawk nawk /usr/bin/mawk
esac
"""
GAWK = "update-alternatives --quiet --install /usr/bin/awk awk /usr/bin/gawk 10"
BLAS = """\
update-alternatives --install /usr/lib/x86_64-linux-gnu/libblas.so.3 \\
                    libblas.so.3-x86_64-linux-gnu /usr/lib/x86_64-linux-gnu/blas/libblas.so.3 10
"""
ED = "    update-alternatives --quiet --install /usr/bin/editor editor /bin/ed -100\n"


def test_a_script_is_read_with_slaves_and_priorities() -> None:
    assert alternatives.parse_script(MAWK) == [
        Alternative("usr/bin/awk", "/usr/bin/mawk", 5),
        Alternative("usr/share/man/man1/awk.1.gz", "/usr/share/man/man1/mawk.1.gz", 5),
        Alternative("usr/bin/nawk", "/usr/bin/mawk", 5),
    ]
    assert alternatives.parse_script(ED) == [Alternative("usr/bin/editor", "/bin/ed", -100)]


@pytest.mark.parametrize(
    "script",
    [
        "",
        "update-alternatives --remove awk /usr/bin/mawk",
        "update-alternatives --install /usr/bin/$i $i $basedir/bin/$i 1060",
        "update-alternatives --install /usr/bin/${binary} b /usr/bin/${binary}8.2 82",
        "update-alternatives --install /usr/bin/a a",
        "update-alternatives --install /usr/bin/a a /usr/bin/b high",
        "update-alternatives --install ../a a /usr/bin/b 1",
        "update-alternatives --install /usr/../../a a /usr/bin/b 1",
        "update-alternatives --install '/usr/bin/a a /usr/bin/b 1",
    ],
)
def test_computed_and_invalid_alternatives_are_left_out(script: str) -> None:
    assert alternatives.parse_script(script) == []


def test_the_existing_target_of_highest_priority_is_linked() -> None:
    tree = Tree()
    for path in ("usr/bin/mawk", "usr/bin/gawk", "usr/lib/x86_64-linux-gnu/blas/libblas.so.3"):
        tree.add_file(path, b"program")

    alternatives.add_links(tree, [each for text in (GAWK, MAWK, BLAS, ED) for each in
                            alternatives.parse_script(text)])  # fmt: skip

    links = {path: node.target for path, node in tree.walk() if node.is_link}
    assert links == {
        "usr/bin/awk": "/usr/bin/gawk",
        "usr/bin/nawk": "/usr/bin/mawk",
        "usr/lib/x86_64-linux-gnu/libblas.so.3": "/usr/lib/x86_64-linux-gnu/blas/libblas.so.3",
    }


def test_existing_files_are_not_replaced_by_alternatives() -> None:
    tree = Tree()
    tree.add_file("usr/bin/gawk", b"program")
    tree.add_file("usr/bin/awk", b"another")

    alternatives.add_links(tree, alternatives.parse_script(GAWK))

    node = tree.find("usr/bin/awk")
    assert node is not None
    assert node.content == b"another"
