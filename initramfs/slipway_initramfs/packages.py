"""Debian packages as the layers of an image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from slipway_initramfs import base, bytecode
from slipway_initramfs.apt_sources import RELEASE
from slipway_initramfs.debian import DebianSource
from slipway_initramfs.errors import BuildFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.debian import Package
    from slipway_initramfs.languages import DebianRecipe, Language
    from slipway_initramfs.layers import Dialect
    from slipway_initramfs.reports import Reports
    from slipway_initramfs.spool import Spool
    from slipway_initramfs.store import ImageStore
    from slipway_initramfs.tree import Tree

_UNPACKERS = 2


class DebianPackages:
    """The packages of one language for one architecture, downloaded."""

    kind = "debian"
    dialect: Dialect = "deb"
    trim: tuple[str, ...] = base.TRIM

    def __init__(
        self,
        source: DebianSource,
        recipe: DebianRecipe,
        packages: tuple[Package, ...],
        store: ImageStore,
        reports: Reports,
    ) -> None:
        self._source = source
        self._packages = packages
        self._recipe = recipe
        self._temporary = store.temporary
        self._step = reports.step
        self._interpreter = _interpreter(recipe, packages)

    @classmethod
    def resolve(
        cls,
        language: Language,
        store: ImageStore,
        architecture: str,
        refresh: bool,
        reports: Reports,
    ) -> DebianPackages:
        """Resolve and download. Raises BuildFailed, also where Debian has another version."""
        recipe = language.debian
        if recipe is None:
            raise BuildFailed(
                f"no Debian packages are known for {language.name}",
                "Its language file has no [image.debian]; take a container image: --from REFERENCE",
            )
        source = DebianSource(store.apt, architecture, reports.step)
        packages = _select(source, recipe, refresh=refresh)
        _check_version(language, recipe, packages)
        source.check_room(packages, store.temporary, f"the image {language.image}")
        try:
            source.fetch(packages)
        except BuildFailed as error:
            # An index of yesterday may name a version that an update has replaced since.
            reports.step(f"{error.message}; trying again with new package lists")
            packages = _select(source, recipe, refresh=True)
            source.fetch(packages)
        return cls(source, recipe, packages, store, reports)

    def key(self) -> dict[str, Any]:
        """Return the packages' digests and who compiles Python's modules."""
        return {
            "packages": [package.sha256 for package in self._packages],
            "bytecode": self._interpreter[2] if self._interpreter else None,
        }

    def layers(self) -> Iterator[tuple[str, Spool]]:
        """Give each package's files, decompressed by several threads ahead."""
        with ThreadPoolExecutor(_UNPACKERS) as pool:
            spools = pool.map(lambda p: self._source.open(p, self._temporary), self._packages)
            try:
                for number, (package, spool) in enumerate(
                    zip(self._packages, spools, strict=True), 1
                ):
                    self._step(f"unpacking {number}/{len(self._packages)} {package.name}")
                    yield f"package {package.name}", spool
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def prepare(self, tree: Tree) -> None:
        """Lay out the merged /usr that packages expect."""
        base.prepare(tree, self._source.architecture)

    def complete(self, tree: Tree) -> list[str]:
        """Do what maintainer scripts would have done."""
        base.complete_packages(tree)
        if not self._recipe.bytecode:
            return []
        if self._interpreter is None:
            return ["no Python of the image's version on this machine: no bytecode files"]
        self._step("compiling Python's modules")
        bytecode.compile_all(tree, self._interpreter[0], self._interpreter[1])
        return []

    def close(self) -> None:
        """Do nothing: packages are files that are opened one by one."""

    def manifest(self) -> dict[str, Any]:
        """Return the release and the packages."""
        return {
            "source": {"kind": self.kind, "release": RELEASE},
            "packages": [
                {
                    "name": package.name,
                    "version": package.version,
                    "size": package.size,
                    "sha256": package.sha256,
                }
                for package in self._packages
            ],
        }


def _select(source: DebianSource, recipe: DebianRecipe, *, refresh: bool) -> tuple[Package, ...]:
    wanted = (*base.PACKAGES, *recipe.packages)
    excluded = (base.EXCLUDE | set(recipe.exclude)) - set(wanted)
    resolved = source.resolve(wanted, refresh=refresh)
    return tuple(package for package in resolved if package.name not in excluded)


def _check_version(language: Language, recipe: DebianRecipe, packages: tuple[Package, ...]) -> None:
    """Raise BuildFailed if the language's first package is not of the version asked for."""
    versions = {package.name: package.version for package in packages}
    # Without the epoch: "4:12.2.0-3" is 12.2.0 to everybody but dpkg.
    upstream = versions.get(recipe.packages[0], "").rpartition(":")[2]
    if language.version and not f"{upstream}.".startswith(
        (
            f"{language.version}.",
            f"{language.version}-",
            f"{language.version}+",
            f"{language.version}~",
        )
    ):
        raise BuildFailed(
            f"Debian {RELEASE} has {language.name} {upstream}, not {language.version}",
            "Others come from container images:"
            f" slipway image build --source registry {language.image}",
        )


def _interpreter(
    recipe: DebianRecipe, packages: tuple[Package, ...]
) -> tuple[str, str, str] | None:
    """Return path, version (3.11) and full version of who compiles Python's modules, if anyone."""
    if not recipe.bytecode:
        return None
    for version in bytecode.MAGIC:
        if any(package.name == f"python{version}-minimal" for package in packages):
            path = bytecode.find_interpreter(version)
            return None if path is None else (path, version, bytecode.full_version(path))
    return None
