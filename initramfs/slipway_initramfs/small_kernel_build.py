"""Build of the small kernel from Debian's source of Linux, and its way into the store."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.debian.kernel import write_sparse
from slipway_initramfs.disk import build_directories, space
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.linux import source_tree
from slipway_initramfs.linux.build_tools import find_build_tools
from slipway_initramfs.linux.compilation import OBJECT_BYTES, Compilation
from slipway_initramfs.linux.configuration import read_configuration
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree
from slipway_initramfs.store.records import SMALL_BUILDER, SMALL_KERNEL, Kernel, build_kernel_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.debian.archive import Package
    from slipway_initramfs.linux.build_tools import BuildTools
    from slipway_initramfs.linux.compilation import CompiledKernel
    from slipway_initramfs.linux.configuration import KernelConfiguration
    from slipway_initramfs.store.image_store import ImageStore


def build_small_kernel(
    store: ImageStore,
    *,
    architecture: str | None = None,
    progress: Callable[[str], None] | None = None,
    refresh: bool = False,
) -> Kernel:
    """Return the small kernel; compile it if the store has none of this source and configuration.

    With ``refresh`` the package lists are updated first.

    Raises:
        BuildFailed: a program is missing or fails, or the disk is full.
        ImageError: the store or the source package is invalid.
    """
    report = progress or BuildProgress().step
    arch = architecture or machine_architecture()
    configuration = read_configuration(arch)
    tools = find_build_tools(arch)
    with store.building(f"kernel-{arch}-{SMALL_KERNEL}", report):
        source = DebianArchive(store.apt, arch, report)
        package = source_tree.find_source_package(
            source.resolve([source_tree.PACKAGE], refresh=refresh)
        )
        made_of = _describe_ingredients(package, configuration, tools)
        existing = _find_existing(store, arch, made_of)
        if existing is not None:
            return existing
        _check_room(store, package)
        source.fetch([package])
        with build_directories.make_directory(store.temporary) as place:
            report(f"unpacking the source of Linux {package.version}")
            spool = source.open(package, store.temporary)
            source_tree.unpack_source(spool, place, arch, store.temporary)
            del spool
            compiled = Compilation(place, tools).compile(configuration, report)
        report(f"storing the kernel {compiled.release}")
        return _store_kernel(store, arch, compiled, made_of)


def _describe_ingredients(
    package: Package, configuration: KernelConfiguration, tools: BuildTools
) -> dict[str, Any]:
    """Return all that a kernel's bytes depend on, for its manifest."""
    return {
        "package": {"name": package.name, "version": package.version, "sha256": package.sha256},
        "configuration": configuration.sha256,
        "compiler": tools.compiler,
    }


def _find_existing(store: ImageStore, architecture: str, made_of: dict[str, Any]) -> Kernel | None:
    with suppress(ImageCorrupted):
        kernel = store.find_kernel(architecture, SMALL_KERNEL)
        if kernel is not None and kernel.is_current and made_of.items() <= kernel.manifest.items():
            kernel.verify()
            return kernel
    return None


def _check_room(store: ImageStore, package: Package) -> None:
    space.check_space(
        "compiling a kernel",
        (store.apt, package.size),
        (store.temporary, package.size + source_tree.ARCHIVE_BYTES),
        (
            build_directories.find_place(store.temporary),
            source_tree.TREE_BYTES + OBJECT_BYTES,
        ),
    )


def _store_kernel(
    store: ImageStore, architecture: str, compiled: CompiledKernel, made_of: dict[str, Any]
) -> Kernel:
    """Store a kernel with its record. It has no modules: their archive is empty."""
    image = store.put_blob(lambda file: write_sparse(compiled.image, file))
    modules = store.put_blob(lambda file: write_tree(Tree(), file))
    manifest = {
        "name": SMALL_KERNEL,
        "builder": SMALL_BUILDER,
        "architecture": architecture,
        "version": compiled.release,
        "image": {"digest": image.digest, "size": image.size},
        "modules": {"digest": modules.digest, "size": modules.size},
        **made_of,
    }
    store.put_record("kernel", build_kernel_key(architecture, SMALL_KERNEL), manifest)
    kernel = store.find_kernel(architecture, SMALL_KERNEL)
    if kernel is None:
        raise ImageError("the kernel was removed during the build")
    return kernel
