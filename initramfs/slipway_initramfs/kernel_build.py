"""Build of a kernel: Debian's package, unpacked into the store."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.debian import kernel
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.store.records import BUILDER, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.store.image_store import ImageStore


def build_kernel(
    store: ImageStore,
    *,
    architecture: str | None = None,
    progress: Callable[[str], None] | None = None,
    refresh: bool = False,
) -> Kernel:
    """Return Debian's cloud kernel; fetch and unpack it if the store has no intact, current kernel.

    With ``refresh`` the package lists are updated first.

    Raises:
        BuildFailed: the kernel cannot be built.
        ImageError: the store or the kernel package is invalid.
    """
    report = progress or BuildProgress().step
    arch = architecture or machine_architecture()
    with store.building(f"kernel-{arch}", report):
        existing: Kernel | None = None
        with suppress(ImageCorrupted):
            existing = store.kernel(arch)
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
    built = store.kernel(arch)
    if built is None:
        raise ImageError("the kernel was removed during the build")
    return built
