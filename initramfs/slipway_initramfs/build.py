"""Making images and kernels: packages, layers, tree, trimming, archive, store."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs import base, bytecode, kernel
from slipway_initramfs.compression import compressor
from slipway_initramfs.cpio import write_tree
from slipway_initramfs.debian import RELEASE, DebianSource
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.layers import apply_layer
from slipway_initramfs.records import BUILDER, MIB, Image, Kernel
from slipway_initramfs.store import machine_architecture
from slipway_initramfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway_initramfs.debian import Package
    from slipway_initramfs.languages import Language, Recipe
    from slipway_initramfs.spool import Spool
    from slipway_initramfs.store import ImageStore

    Progress = Callable[[str], None]

COMPRESSION = "lz4"
_UNPACKERS = 2
_PROGRAM = "#!"


def build_image(
    language: Language,
    store: ImageStore,
    *,
    architecture: str | None = None,
    progress: Progress | None = None,
    refresh: bool = False,
) -> Image:
    """Return the image of a language, made from Debian's packages if there is no sound one.

    An image that is there is kept if its recipe is this language's and its bytes are sound; with
    ``refresh`` Debian is asked for newer packages as well. ``progress`` is called with a short
    sentence for each step. Raises ImageError (mostly BuildFailed).
    """
    report = progress or _quiet
    arch = architecture or machine_architecture()
    name = f"{language.name}-{arch}"
    with store.building(f"image-{name}", report):
        existing = _sound_image(store, language, arch, report)
        if existing is not None and not refresh:
            return existing
        source = DebianSource(store.apt, arch, report)
        packages = _resolve(source, language.recipe, refresh=refresh, progress=report)
        interpreter = _interpreter(language.recipe, packages)
        key = _build_key(arch, language.recipe, packages, interpreter)
        if existing is not None and existing.manifest.get("build_key") == key:
            return existing
        tree, facts = _assemble(source, store, language.recipe, packages, interpreter, report)
        manifest = _store_root(store, tree, key, report)
        manifest |= facts | {
            "language": language.name,
            "architecture": arch,
            "source": {"kind": "debian", "release": RELEASE},
            "recipe": language.recipe.plain(),
            "workload": language.recipe.workload * MIB,
            "packages": [
                {
                    "name": package.name,
                    "version": package.version,
                    "size": package.size,
                    "sha256": package.sha256,
                }
                for package in packages
            ],
        }
        store.put_record("image", name, manifest)
    image = store.image(language.name, arch)
    if image is None:
        raise ImageError(f"the image {name} was removed while it was being made")
    return image


def build_kernel(
    store: ImageStore,
    *,
    architecture: str | None = None,
    progress: Progress | None = None,
    refresh: bool = False,
) -> Kernel:
    """Return Debian's cloud kernel, fetched and unpacked if there is no sound one in the store.

    With ``refresh`` Debian is asked for a newer one. Raises ImageError (mostly BuildFailed).
    """
    report = progress or _quiet
    arch = architecture or machine_architecture()
    with store.building(f"kernel-{arch}", report):
        existing: Kernel | None = None
        with suppress(ImageCorrupted):
            existing = store.kernel(arch)
            if existing is not None:
                existing.verify()
                if not refresh and existing.manifest.get("builder") == BUILDER:
                    return existing
        source = DebianSource(store.apt, arch, report)
        if arch not in kernel.PACKAGES:
            raise BuildFailed(f"no kernel for the architecture {arch!r}")
        package = kernel.choose(source.resolve([kernel.PACKAGES[arch]], refresh=refresh))
        source.fetch([package])
        report(f"unpacking the kernel {package.version}")
        unpacked = kernel.KernelPackage(source.open(package, store.temporary), arch)
        data = unpacked.image()
        image = store.put_blob(lambda file: kernel.write_sparse(data, file))
        modules = store.put_blob(unpacked.write_modules)
        manifest = kernel.manifest(arch, package, unpacked.version) | {
            "builder": BUILDER,
            "image": {"digest": image.digest, "size": image.size},
            "modules": {"digest": modules.digest, "size": modules.size},
        }
        store.put_record("kernel", arch, manifest)
    built = store.kernel(arch)
    if built is None:
        raise ImageError("the kernel was removed while it was being made")
    return built


def _quiet(_: str) -> None:
    pass


def _sound_image(
    store: ImageStore, language: Language, arch: str, progress: Progress
) -> Image | None:
    """Return the image in the store if it is of this recipe and undamaged."""
    try:
        image = store.image(language.name, arch)
        if image is None or not image.is_current(language.recipe.plain()):
            return None
        image.verify()
    except ImageCorrupted as error:
        progress(f"{error.message}; making it again")
        return None
    return image


def _resolve(
    source: DebianSource, recipe: Recipe, *, refresh: bool, progress: Progress
) -> tuple[Package, ...]:
    """Return the packages of a recipe, downloaded."""
    packages = _select(source, recipe, refresh=refresh)
    try:
        source.fetch(packages)
    except BuildFailed as error:
        # An index of yesterday may name a version that an update has replaced since.
        progress(f"{error.message}; trying again with new package lists")
        packages = _select(source, recipe, refresh=True)
        source.fetch(packages)
    return packages


def _select(source: DebianSource, recipe: Recipe, *, refresh: bool) -> tuple[Package, ...]:
    wanted = (*base.PACKAGES, *recipe.packages)
    excluded = (base.EXCLUDE | set(recipe.exclude)) - set(wanted)
    resolved = source.resolve(wanted, refresh=refresh)
    return tuple(package for package in resolved if package.name not in excluded)


def _interpreter(recipe: Recipe, packages: tuple[Package, ...]) -> tuple[str, str, str] | None:
    """Return path, version (3.11) and full version of who compiles Python's modules, if anyone."""
    if "python-bytecode" not in recipe.warm:
        return None
    for version in bytecode.MAGIC:
        if any(package.name == f"python{version}-minimal" for package in packages):
            path = bytecode.find_interpreter(version)
            return None if path is None else (path, version, bytecode.full_version(path))
    return None


def _build_key(
    arch: str,
    recipe: Recipe,
    packages: tuple[Package, ...],
    interpreter: tuple[str, str, str] | None,
) -> str:
    """Return a digest of all that the image's bytes depend on."""
    inputs: dict[str, Any] = {
        "builder": BUILDER,
        "architecture": arch,
        "compression": COMPRESSION,
        "recipe": recipe.plain(),
        "packages": [package.sha256 for package in packages],
        "bytecode": interpreter[2] if interpreter else None,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _assemble(
    source: DebianSource,
    store: ImageStore,
    recipe: Recipe,
    packages: tuple[Package, ...],
    interpreter: tuple[str, str, str] | None,
    progress: Progress,
) -> tuple[Tree, dict[str, Any]]:
    """Return the finished tree and what the manifest says about how it came about."""
    tree = Tree()
    base.prepare(tree, source.architecture)
    for number, (package, layer) in enumerate(_unpacked(source, store, packages), 1):
        progress(f"unpacking {number}/{len(packages)} {package.name}")
        try:
            apply_layer(tree, layer, "deb")
        except ImageError as error:
            raise BuildFailed(f"package {package.name}: {error.message}", error.hint) from error
    trimmed = tree.remove((*base.TRIM, *recipe.trim))
    base.complete(tree)
    for path, target in recipe.links.items():
        tree.add_symlink(path, target)
    for path, text in recipe.files.items():
        tree.add_file(path, text.encode(), 0o755 if text.startswith(_PROGRAM) else 0o644)
    warnings = []
    if "python-bytecode" in recipe.warm:
        if interpreter is None:
            warnings.append("no Python of the image's version on this machine: no bytecode files")
        else:
            progress("compiling Python's modules")
            bytecode.compile_all(tree, interpreter[0], interpreter[1])
    return tree, {"trimmed": trimmed.size, "warnings": warnings}


def _unpacked(
    source: DebianSource, store: ImageStore, packages: tuple[Package, ...]
) -> Iterator[tuple[Package, Spool]]:
    """Give each package with its layer, in order, decompressed by several threads ahead."""
    with ThreadPoolExecutor(_UNPACKERS) as pool:
        layers = pool.map(lambda package: source.open(package, store.temporary), packages)
        try:
            yield from zip(packages, layers, strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _store_root(store: ImageStore, tree: Tree, key: str, progress: Progress) -> dict[str, Any]:
    """Write the archive of ``tree``; return what the manifest says about it."""
    tree.add_file(base.SENTINEL, f"{key}\n".encode())
    usage = tree.usage()
    progress(f"packing {usage.files} files, {usage.size / 1e6:.0f} MB")

    def write(file: BinaryIO) -> None:
        packer = compressor(COMPRESSION, file)
        try:
            write_tree(tree, packer, last=(base.SENTINEL,))
        finally:
            packer.close()

    archive = store.put_blob(write)
    return {
        "builder": BUILDER,
        "build_key": key,
        "archive": {
            "digest": archive.digest,
            "size": archive.size,
            "compression": COMPRESSION,
        },
        "files": usage.files,
        "root": usage.size,
        "memory": usage.memory,
    }
