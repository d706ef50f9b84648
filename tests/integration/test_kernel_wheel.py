"""The wheel with small kernels: pip installs it, and a store takes its kernel from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from slipway_initramfs.kernel_package import adopt_installed_kernel
from slipway_initramfs.linux.configuration import find_directory, read_configuration
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import SMALL_BUILDER, SMALL_KERNEL, build_kernel_key
from support.stores import writer

PACKER = Path(__file__).parents[2] / ".ci" / "kernel_wheel.py"
ARCHITECTURES = ("amd64", "arm64")


def put_kernel(store: ImageStore, architecture: str, configuration: str) -> None:
    """Put a kernel as a build of these options makes it."""
    with store.building("kernel"):
        image = store.put_blob(writer(architecture.encode() * 1000))
        modules = store.put_blob(lambda file: write_tree(Tree(), file))
        manifest = {
            "name": SMALL_KERNEL,
            "builder": SMALL_BUILDER,
            "architecture": architecture,
            "version": "6.1.9-slipway",
            "image": {"digest": image.digest, "size": image.size},
            "modules": {"digest": modules.digest, "size": modules.size},
            "package": {"name": "linux-source-6.1", "version": "6.1.9-3", "sha256": "0" * 64},
            "configuration": configuration,
            "compiler": "gcc 12",
        }
        store.put_record("kernel", build_kernel_key(architecture, SMALL_KERNEL), manifest)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The directory of a user's store with both kernels."""
    store = ImageStore(tmp_path / "cache" / "slipway")
    for architecture in ARCHITECTURES:
        put_kernel(store, architecture, read_configuration(architecture).sha256)
    return tmp_path / "cache"


def pack(cache: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PACKER, directory],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_installed_kernels_are_those_of_the_store(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(cache, tmp_path / "dist")
    wheel = Path(packed.stdout.strip())
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "slipway_kernel", raising=False)
    store = ImageStore(tmp_path / "new")

    kernels = [adopt_installed_kernel(store, architecture) for architecture in ARCHITECTURES]

    assert wheel.name == "slipway_kernel-6.1.9.3-py3-none-any.whl"
    former = ImageStore(cache / "slipway")
    for architecture, kernel in zip(ARCHITECTURES, kernels, strict=True):
        there = former.find_kernel(architecture, SMALL_KERNEL)
        assert kernel is not None
        assert there is not None
        assert kernel.digest == there.digest
        kernel.verify()


def test_the_wheel_has_options_source_and_licence(cache: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pack(cache, tmp_path / "dist").stdout.strip()) as wheel:
        names = wheel.namelist()
        metadata = wheel.read("slipway_kernel-6.1.9.3.dist-info/METADATA").decode()

    options = [f"slipway_kernel/{path.name}" for path in find_directory().glob("*.config")]
    assert set(options) <= set(names)
    assert "GPL-2.0-only" in metadata
    assert "linux-source-6.1 6.1.9-3" in metadata


def test_the_same_kernels_give_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    one, other = (Path(pack(cache, tmp_path / name).stdout.strip()) for name in ("one", "other"))

    assert one.read_bytes() == other.read_bytes()


def test_a_kernel_of_other_options_is_not_packed(cache: Path, tmp_path: Path) -> None:
    put_kernel(ImageStore(cache / "slipway"), "arm64", "0" * 64)

    ended = pack(cache, tmp_path / "dist")

    assert ended.returncode == 1
    assert "slipway kernel build --arch arm64" in ended.stderr
    assert not (tmp_path / "dist").exists()
