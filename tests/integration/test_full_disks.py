"""Stores on a full disk: each writer reports it at once, and keeps existing files.

The disk is a tmpfs in a separate mount namespace. Ordinary users can create one if the kernel
allows user namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.stores import store_root

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway_initramfs.store.image_store import ImageStore
    from support.commands import Commands

pytestmark = pytest.mark.usefixtures("mounts")

NAMESPACES = "-m" if os.geteuid() == 0 else "-Urm"


def small_disk(place: Path, size: str, then: str = ":") -> tuple[str, ...]:
    """Return the prefix of a command that runs with a tmpfs at ``place``."""
    place.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o size={size},mode=755 none {place} && {then} && "$@"'
    return ("unshare", NAMESPACES, "sh", "-c", mount, "sh")


@pytest.mark.debian("apt-get")
def test_a_build_on_a_full_disk_is_refused_at_once(commands: Commands, tmp_path: Path) -> None:
    # Here apt would wait for ever for the program that was to check what it had fetched.
    disk = tmp_path / "disk"
    commands.prefix = small_disk(disk, "2m")

    ended = commands("slipway", "image", "build", "--source", "debian", "--store", disk / "s", "c")

    assert ended.code == 125
    assert "fetching Debian's package lists needs about" in ended.stderr
    assert f"the file system of {disk} has 2 MiB free" in ended.stderr
    assert "hint: Free " in ended.stderr
    assert "--store" in ended.stderr


@pytest.mark.debian("apt-get")
def test_a_full_disk_is_reported(commands: Commands, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    # Directories could still be made where the disk is only full.
    fill = f"for n in $(seq 200); do mkdir {disk}/$n || break; done 2>/dev/null"
    commands.prefix = small_disk(disk, "1m,nr_inodes=60", fill)

    ended = commands("slipway", "image", "build", "--source", "debian", "--store", disk / "s", "c")

    assert ended.code == 125
    assert "No space left on device" in ended.stderr
    assert str(disk) in ended.stderr
    assert "bug" not in ended.stderr


def test_an_image_that_does_not_fit_is_not_imported(
    commands: Commands, store: ImageStore, tmp_path: Path
) -> None:
    disk, file = tmp_path / "disk", tmp_path / "bash.slipway"
    sent = commands("slipway", "image", "export", "--store", store.root, "bash", file)
    commands.prefix = small_disk(disk, "20m")

    taken = commands("slipway", "image", "import", "--store", disk / "s", file)
    not_sent = commands("slipway", "image", "export", "--store", store.root, "bash", disk / "b")

    assert (sent.code, taken.code, not_sent.code) == (0, 125, 125)
    assert "importing the image needs about" in taken.stderr
    assert f"the file system of {disk} has" in taken.stderr
    assert f"cannot write {disk}/b: No space left on device" in not_sent.stderr


def test_disk_space_is_checked_before_a_download(
    commands: Commands, bash: Assets, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    apt = store_root(bash) / "apt"
    # The lists only: everything else would have to come over the network.
    keep = tmp_path / "apt"
    shutil.copytree(apt, keep, ignore=shutil.ignore_patterns("*.deb"))
    link = f"mkdir -p {disk}/s && ln -s {keep} {disk}/s/apt"
    commands.prefix = small_disk(disk, "24m", link)

    ended = commands("slipway", "image", "build", "--source", "debian", "--store", disk / "s", "c")

    assert ended.code == 125
    assert "making the kernel needs about" in ended.stderr
    assert f"the file system of {disk} has" in ended.stderr
    assert "downloading" not in ended.stderr
    assert list((keep / "downloads").iterdir()) == []


APT = """
import sys
from pathlib import Path
from slipway_initramfs.disk import space
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.errors import BuildFailed
space.check_space = lambda *_: None  # as if others had filled the disk since
try:
    DebianArchive(Path(sys.argv[1]), "amd64", print).resolve(["gcc"])
except BuildFailed as error:
    print(error.message, error.hint)
"""


@pytest.mark.debian("apt-get")
def test_apt_is_ended_when_the_disk_becomes_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    command = [*small_disk(disk, "2m"), sys.executable, "-c", APT, str(disk / "apt")]

    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    assert ended.returncode == 0, ended.stderr
    # Which of them it is depends on the mirror, and on whether apt has removed what did not fit.
    said = ("No space left on device", "too little space", "no connection")
    assert any(words in ended.stdout for words in said), ended.stdout


BLOBS = """
import sys
from contextlib import contextmanager
from pathlib import Path
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.oci.blob_cache import BlobCache
from slipway_initramfs.oci.repository import Descriptor

class Endless:
    local = False
    @contextmanager
    def blob(self, descriptor, start=0):
        yield iter(lambda: bytes(65536), b"")

place = Path(sys.argv[1])
(place / "whole").write_bytes(b"whole")
try:
    BlobCache(place).fetch(Descriptor("x", "sha256:" + "0" * 64, 1 << 30), Endless(), print)
except BuildFailed as error:
    print(error.message, error.hint)
print(sorted(path.name for path in place.iterdir()))
"""


def test_half_a_layer_does_not_keep_the_disk_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    command = [*small_disk(disk, "2m"), sys.executable, "-c", BLOBS, str(disk)]

    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert "No space left on device" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "['whole']"


INITRD = """
import sys
from pathlib import Path
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.store.initrds import find_initrd
from slipway_initramfs.store.image_store import ImageStore
import pytest

from support.stores import put_agent, put_image, put_kernel

store = ImageStore(Path(sys.argv[1]))
image, kernel, agent = put_image(store, root=bytes(3 << 19)), put_kernel(store), put_agent(store)
before = sorted(path for path in store.root.rglob("*") if path.is_file() and path.stat().st_size)
try:
    find_initrd(store, image, kernel, agent.path)
except BuildFailed as error:
    print(error.message, error.hint)
after = sorted(path for path in store.root.rglob("*") if path.is_file() and path.stat().st_size)
image.verify()
print(before == after)
"""


def test_an_initrd_that_does_not_fit_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    command = [*small_disk(disk, "2m"), sys.executable, "-c", INITRD, str(disk / "s")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert "No space left on device" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "True"
