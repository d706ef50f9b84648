from __future__ import annotations

from slipway_initramfs.debian.dependencies import parse, reach

SAID = """\
python3
  PreDepends: python3-minimal
  Depends: python3.11
base-files
  PreDepends: <awk>
    gawk
    mawk
python3.11
 |Depends: media-types
  Depends: mime-support
  Depends: libsystemd0
    libelogind0
libnative
  Depends: libgssapi
libgssapi
  Depends: libkrb5
<awk>
mawk
"""


def test_dependencies_include_alternatives_and_providers() -> None:
    known = {"python3.11", "mawk", "media-types", "libelogind0", "libgssapi"}

    needs = parse(SAID, known)

    assert needs["python3"] == {"python3.11"}
    assert needs["base-files"] == {"mawk"}
    assert needs["python3.11"] == {"media-types", "libelogind0"}
    assert needs["mawk"] == frozenset()


def test_a_cut_package_takes_along_only_its_exclusive_dependencies() -> None:
    needs = {
        "perl": frozenset({"perl-base", "dpkg"}),
        "dpkg": frozenset({"tar", "libmd0"}),
        "libnative": frozenset({"libgssapi"}),
        "libgssapi": frozenset({"libkrb5", "libmd0"}),
    }

    assert reach(["perl"], {"dpkg"}, needs) == {"perl", "perl-base"}
    assert reach(["perl", "libnative"], {"dpkg"}, needs) == {
        "perl", "perl-base", "libnative", "libgssapi", "libkrb5", "libmd0",
    }  # fmt: skip


def test_mutual_dependencies_are_reached_once() -> None:
    assert reach(["a"], (), {"a": frozenset({"b"}), "b": frozenset({"a"})}) == {"a", "b"}
