"""Builds of images from Debian's packages, as by ``slipway image build``.

``SLIPWAY_TEST_STORE`` names the store with shared downloads (default: the user's own, to avoid
repeated downloads); the tests build into separate stores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.build import build_image
from slipway_initramfs.compression.compressors import unpack_lz4
from slipway_initramfs.debian.archive import DebianArchive, Package
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.kernel_build import build_kernel
from slipway_initramfs.languages import catalogue
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.source import SourceOptions
from support.newc import unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image

pytestmark = [
    pytest.mark.debian("apt-get"),
    pytest.mark.timeout(600),
]

MAX_ROOT = 1 << 30
DEBIAN = SourceOptions(kind="debian")


@pytest.fixture(scope="session")
def store(new_store: Callable[[], ImageStore]) -> ImageStore:
    return new_store()


def read_archive(image: Image) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of every entry of an image's archive, by path."""
    return unpack(unpack_lz4(image.root_archive.read_bytes(), MAX_ROOT))


@pytest.mark.parametrize("name", ["bash", "python"])
def test_the_same_packages_give_the_same_bytes(
    store: ImageStore,
    new_store: Callable[[], ImageStore],
    progress: Callable[[str], None],
    name: str,
) -> None:
    language = catalogue.find_language(name)

    first = build_image(language, store, DEBIAN, progress=BuildProgress(progress))
    second = build_image(language, new_store(), DEBIAN)

    assert first.digest == second.digest
    assert first.root.digest == second.root.digest
    second.verify()


@pytest.mark.parametrize(
    ("name", "program"), [("bash", "usr/bin/bash"), ("python", "usr/bin/python3.11")]
)
def test_an_image_has_the_files_that_a_guest_needs(
    store: ImageStore, name: str, program: str
) -> None:
    image = build_image(catalogue.find_language(name), store, DEBIAN)

    entries = read_archive(image)

    assert entries[program][1].startswith(b"\x7fELF")
    assert entries["bin"][1] == b"usr/bin"
    assert entries["usr/bin/sh"][1] == b"dash"
    assert b"runner:x:1000:1000:" in entries["etc/passwd"][1]
    assert entries["tmp"][0] & 0o7777 == 0o1777
    assert not [path for path in entries if path.startswith(("usr/share/doc/", "var/lib/dpkg"))]


def test_the_sentinel_is_the_last_entry_and_holds_the_build_key(store: ImageStore) -> None:
    image = build_image(catalogue.find_language("bash"), store, DEBIAN)

    path, (_, content) = list(read_archive(image).items())[-1]

    assert path == ".slipway-complete"
    assert content.decode() == f"{image.manifest['build_key']}\n"


def test_the_manifest_has_packages_and_sizes(store: ImageStore) -> None:
    image = build_image(catalogue.find_language("bash"), store, DEBIAN)

    packages = {package["name"]: package["version"] for package in image.manifest["packages"]}
    assert packages["bash"].startswith("5.2")
    assert "dpkg" not in packages
    assert image.manifest["trimmed"] > 0
    assert image.manifest["root"] < image.manifest["memory"] < image.minimum_memory


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="needs the image's Python")
def test_pythons_modules_have_their_bytecode(store: ImageStore) -> None:
    entries = read_archive(build_image(catalogue.find_language("python"), store, DEBIAN))

    assert "usr/lib/python3.11/json/__pycache__/decoder.cpython-311.pyc" in entries


def test_an_existing_image_is_not_built_again(store: ImageStore) -> None:
    language = catalogue.find_language("bash")
    image = build_image(language, store, DEBIAN)
    said: list[str] = []

    assert build_image(language, store, progress=BuildProgress(said.append, said.append)) == image
    assert said == []


def test_debian_has_its_version_beside_the_bare_name(store: ImageStore) -> None:
    image = build_image(catalogue.find_language("bash@5.2"), store, DEBIAN)

    assert image.name == "bash@5.2"
    assert (
        image.root.digest == build_image(catalogue.find_language("bash"), store, DEBIAN).root.digest
    )


def test_a_version_that_debian_lacks_is_refused(store: ImageStore) -> None:
    with pytest.raises(BuildFailed, match=r"Debian bookworm has bash 5\.2.*, not 5\.1") as caught:
        build_image(catalogue.find_language("bash@5.1"), store, DEBIAN)

    assert "--source registry" in caught.value.hint


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_other_compressions_hold_the_same_root(store: ImageStore, compression: str) -> None:
    lz4 = build_image(catalogue.find_language("bash"), store, DEBIAN)

    image = build_image(
        catalogue.find_language("bash@5"), store, replace(DEBIAN, compression=compression)
    )

    programs = {"zstd": ["zstd", "-dc"], "gzip": ["gzip", "-dc"], "none": ["cat"]}
    packed = image.root_archive.open("rb")
    done = subprocess.run(programs[compression], stdin=packed, capture_output=True, check=True)
    packed.close()
    entries, expected = unpack(done.stdout), read_archive(lz4)
    assert entries.keys() == expected.keys()
    del entries[".slipway-complete"], expected[".slipway-complete"]
    assert entries == expected


def test_a_damaged_image_is_built_again(
    new_store: Callable[[], ImageStore], store: ImageStore
) -> None:
    language = catalogue.find_language("bash")
    sound = build_image(language, store, DEBIAN)
    mine = new_store()
    image = build_image(language, mine, DEBIAN)
    with image.root_archive.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")

    again = build_image(language, mine, DEBIAN)

    assert again.root.digest == sound.root.digest
    again.verify()


def test_another_architecture_is_assembled_here(store: ImageStore) -> None:
    image = build_image(
        catalogue.find_language("bash"), store, replace(DEBIAN, architecture="arm64")
    )

    machine = read_archive(image)["usr/bin/bash"][1][18:20]
    assert int.from_bytes(machine, "little") == 183  # EM_AARCH64


@pytest.mark.parametrize(
    ("architecture", "offset", "magic"), [("amd64", 0, b"\x7fELF"), ("arm64", 0x38, b"ARM\x64")]
)
def test_the_kernel_comes_in_the_form_that_a_vmm_loads(
    store: ImageStore, architecture: str, offset: int, magic: bytes
) -> None:
    kernel = build_kernel(store, architecture=architecture)

    data = kernel.path.read_bytes()
    assert data[offset : offset + 4] == magic
    assert "cloud" in kernel.version
    modules = kernel.modules_archive.read_bytes()
    assert modules.find(b"00-virtio_ring.ko") < modules.find(b"03-virtio_console.ko")
    kernel.verify()


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")
def test_an_ordinary_user_resolves_packages(open_tmp_path: Path) -> None:
    # A package of its own directory: nothing of root's may be in the way.
    mine = open_tmp_path / "mine"
    mine.mkdir()
    os.chown(mine, 65534, 65534)
    code = (
        "import sys; from pathlib import Path\n"
        "from slipway_initramfs.debian.archive import DebianArchive\n"
        "source = DebianArchive(Path(sys.argv[1]), 'amd64', lambda line: None)\n"
        "packages = source.resolve(['libmd0'])\n"
        "source.fetch(packages)\n"
        "print(source.open(packages[-1]).size)\n"
    )
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    done = subprocess.run(
        [*command, sys.executable, "-c", code, mine],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": "/nonexistent"},
    )

    assert done.stderr == ""
    assert int(done.stdout) > 10_000


def test_a_package_missing_on_the_mirror_is_an_error(apt: Path) -> None:
    source = DebianArchive(apt, "amd64", lambda _: None)
    [first, *_] = source.resolve(["libmd0"])
    gone = Package("gone", "1", "amd64", first.uri + ".gone", 100, "0" * 64)

    with pytest.raises(BuildFailed, match="cannot download packages"):
        source.fetch([gone])


def test_an_unknown_package_is_named(apt: Path) -> None:
    source = DebianArchive(apt, "amd64", lambda _: None)

    with pytest.raises(BuildFailed, match="'nosuchpackage'"):
        source.resolve(["nosuchpackage"])
