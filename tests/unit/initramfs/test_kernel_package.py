"""Small kernels in an installed Python package."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import ImageError
from slipway_initramfs.kernel_build import build_kernel
from slipway_initramfs.kernel_package import IMAGE, RECORD, adopt_installed_kernel, pack_kernel
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import DEBIAN_KERNEL, SMALL_BUILDER, SMALL_KERNEL
from support.stores import put_kernel, writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway_initramfs.store.records import Kernel

CONTENT = b"\x7fELF" + bytes(9000) + b"kernel"


def put_small_kernel(store: ImageStore, builder: int = SMALL_BUILDER) -> Kernel:
    """Put a kernel as a build makes it: with an empty archive of modules."""
    with store.building("kernel"):
        image = store.put_blob(writer(CONTENT))
        modules = store.put_blob(lambda file: write_tree(Tree(), file))
        manifest = {
            "name": SMALL_KERNEL,
            "builder": builder,
            "architecture": "amd64",
            "version": "6.1.0-slipway",
            "image": {"digest": image.digest, "size": image.size},
            "modules": {"digest": modules.digest, "size": modules.size},
        }
        store.put_record("kernel", "amd64-small", manifest)
    kernel = store.find_kernel("amd64", SMALL_KERNEL)
    assert kernel is not None
    return kernel


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install the package with a kernel, and return the kernel's directory."""

    def install(builder: int = SMALL_BUILDER) -> Path:
        kernel = put_small_kernel(ImageStore(tmp_path / "made"), builder)
        directory = tmp_path / "site" / "slipway_kernel" / "amd64"
        directory.mkdir(parents=True)
        (directory.parent / "__init__.py").touch()
        for name, data in pack_kernel(kernel).items():
            (directory / name).write_bytes(data)
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.delitem(sys.modules, "slipway_kernel", raising=False)
        return directory

    return install


def test_a_store_without_a_kernel_takes_the_installed_one(
    install: Callable[..., Path], store: ImageStore
) -> None:
    install()

    kernel = build_kernel(store, architecture="amd64", progress=print)

    kernel.verify()
    assert (kernel.name, kernel.version) == (SMALL_KERNEL, "6.1.0-slipway")
    assert kernel.path.read_bytes() == CONTENT
    found = store.kernel("amd64")
    assert found is not None
    assert found.digest == kernel.digest


def test_debians_kernel_stays_where_it_is_in_use(
    install: Callable[..., Path], store: ImageStore
) -> None:
    put_kernel(store)
    install()

    assert build_kernel(store, architecture="amd64", progress=print).name == DEBIAN_KERNEL


def test_a_run_that_names_the_small_kernel_gets_the_installed_one(
    install: Callable[..., Path], store: ImageStore
) -> None:
    put_kernel(store)
    install()

    kernel = build_kernel(store, architecture="amd64", name=SMALL_KERNEL, progress=print)

    assert kernel.name == SMALL_KERNEL


def test_another_architecture_is_not_in_the_package(
    install: Callable[..., Path], store: ImageStore
) -> None:
    install()

    assert adopt_installed_kernel(store, "arm64") is None


def test_nothing_is_taken_where_no_package_is_installed(store: ImageStore) -> None:
    assert adopt_installed_kernel(store, "amd64") is None


def test_a_kernel_for_another_version_of_slipway_is_not_taken(
    install: Callable[..., Path], store: ImageStore
) -> None:
    install(builder=SMALL_BUILDER - 1)

    assert adopt_installed_kernel(store, "amd64") is None


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (IMAGE, b"", "truncated"),
        (IMAGE, b"text" * 10, "kernel.xz is damaged"),
        (RECORD, b"{}", "format"),
        (RECORD, None, "No such file"),
    ],
)
def test_a_damaged_package_is_told(
    install: Callable[..., Path], store: ImageStore, name: str, data: bytes | None, reason: str
) -> None:
    path = install() / name
    path.unlink()
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(ImageError, match=f"slipway-kernel is damaged: .*{reason}") as raised:
        adopt_installed_kernel(store, "amd64")

    assert "pip uninstall slipway-kernel" in raised.value.hint
    assert store.kernels() == []


def test_another_kernel_than_its_record_says_is_refused(
    install: Callable[..., Path], store: ImageStore, tmp_path: Path
) -> None:
    directory = install()
    other = put_kernel(ImageStore(tmp_path / "other"), name=SMALL_KERNEL, content=b"other")
    (directory / IMAGE).write_bytes(pack_kernel(other)[IMAGE])

    with pytest.raises(ImageError, match="its digest is another"):
        adopt_installed_kernel(store, "amd64")


def test_packing_gives_the_same_bytes_each_time(store: ImageStore) -> None:
    kernel = put_small_kernel(store)

    assert pack_kernel(kernel) == pack_kernel(kernel)
