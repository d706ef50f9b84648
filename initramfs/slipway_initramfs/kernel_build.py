"""Kernel of runs: the small kernel where the store has it, else Debian's package, unpacked."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.debian import kernel
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.kernel_package import adopt_installed_kernel
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.store.records import (
    BUILDER,
    DEBIAN_KERNEL,
    SMALL_KERNEL,
    Kernel,
    make_kernel_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.store.image_store import ImageStore


def build_kernel(
    store: ImageStore,
    *,
    architecture: str | None = None,
    name: str = "",
    progress: Callable[[str], None] | None = None,
    refresh: bool = False,
) -> Kernel:
    """Return the kernel of this ``name``, by default the one in use, with every byte checked.

    In use is the small kernel if the store or an installed package has it and Debian's was not
    chosen. Debian's is fetched and unpacked if the store has no intact, current one; ``refresh``
    then updates the package lists first.

    Raises:
        BuildFailed: the kernel cannot be built.
        ImageError: the store or the kernel package is invalid, or the small kernel is missing.
    """
    report = progress or BuildProgress().step
    arch = architecture or machine_architecture()
    small = None
    if name == SMALL_KERNEL or (not name and not _is_debian_chosen(store, arch)):
        small = _find_small_kernel(store, arch, report, required=bool(name))
    return small or _build_debian_kernel(store, arch, report, refresh=refresh)


def _is_debian_chosen(store: ImageStore, architecture: str) -> bool:
    with suppress(ImageCorrupted):
        return store.kernel_choice(architecture) == DEBIAN_KERNEL
    return False


def _find_small_kernel(
    store: ImageStore, architecture: str, report: Callable[[str], None], *, required: bool
) -> Kernel | None:
    """Return the small kernel; a damaged one is removed.

    If it is not ``required``, an installed package is a source only where Debian's is missing.

    Raises:
        ImageError: it is required, and missing or of another version of Slipway.
    """
    try:
        kernel = store.find_kernel(architecture, SMALL_KERNEL)
        if kernel is not None:
            kernel.verify()
    except ImageCorrupted:
        from slipway_initramfs.store.garbage_collection import forget_kernel

        report("the small kernel in the store is damaged; to make it again: slipway kernel build")
        forget_kernel(store, architecture, SMALL_KERNEL)
        kernel = None
    if kernel is not None and kernel.is_current:
        return kernel
    with suppress(ImageCorrupted):
        if not required and store.find_kernel(architecture, DEBIAN_KERNEL) is not None:
            return None
    kernel = adopt_installed_kernel(store, architecture)
    if kernel is None and required:
        raise make_kernel_error(architecture, SMALL_KERNEL)
    return kernel


def _build_debian_kernel(
    store: ImageStore, arch: str, report: Callable[[str], None], *, refresh: bool
) -> Kernel:
    """Return Debian's cloud kernel; fetch and unpack it if the store lacks it."""
    with store.building(f"kernel-{arch}", report):
        existing: Kernel | None = None
        with suppress(ImageCorrupted):
            existing = store.find_kernel(arch, DEBIAN_KERNEL)
            if existing is not None:
                existing.verify()
                if not refresh and existing.is_current:
                    return existing
                if not existing.is_current:
                    report(f"the kernel {existing.version} is from another version of Slipway")
        source = DebianArchive(store.apt, arch, report)
        if arch not in kernel.PACKAGES:
            raise BuildFailed(f"no kernel for the architecture {arch!r}")
        package = kernel.find_kernel_package(
            source.resolve([kernel.PACKAGES[arch]], refresh=refresh)
        )
        source.check_room([package], store.temporary, "the kernel")
        source.fetch([package])
        report(f"unpacking the kernel {package.version}")
        unpacked = kernel.KernelPackage(source.open(package, store.temporary), arch)
        data = unpacked.image()
        image = store.put_blob(lambda file: kernel.write_sparse(data, file))
        modules = store.put_blob(unpacked.write_modules)
        manifest = kernel.describe_kernel(arch, package, unpacked.version) | {
            "builder": BUILDER,
            "image": {"digest": image.digest, "size": image.size},
            "modules": {"digest": modules.digest, "size": modules.size},
        }
        store.put_record("kernel", arch, manifest)
    built = store.find_kernel(arch, DEBIAN_KERNEL)
    if built is None:
        raise ImageError("the kernel was removed during the build")
    return built
