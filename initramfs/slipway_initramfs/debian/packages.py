"""Debian packages as the source of an image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from slipway_initramfs.debian import dependencies
from slipway_initramfs.debian.archive import DebianArchive
from slipway_initramfs.debian.mirrors import RELEASE
from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.rootfs import bytecode, defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slipway_initramfs.debian.archive import Package
    from slipway_initramfs.disk.spool import Spool
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.languages.recipes import DebianRecipe
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.rootfs.layers import Dialect
    from slipway_initramfs.rootfs.tree import Tree
    from slipway_initramfs.store.image_store import ImageStore

_UNPACKERS = 2


@dataclass(frozen=True, slots=True)
class PackageChoice:
    """Packages ``wanted`` and their dependencies, except those only ``excluded`` packages need."""

    wanted: tuple[str, ...]
    excluded: frozenset[str]

    def select(self, source: DebianArchive, *, refresh: bool) -> tuple[Package, ...]:
        """Resolve the choice.

        Raises:
            BuildFailed: a package is unknown, or the lists cannot be fetched.
        """
        resolved = source.resolve(self.wanted, refresh=refresh)
        needs = source.needs([package.name for package in resolved])
        kept = dependencies.reach(self.wanted, self.excluded.difference(self.wanted), needs)
        return tuple(package for package in resolved if package.name in kept)


@dataclass(frozen=True, slots=True)
class PackageSelection:
    """Resolved packages of one architecture."""

    choice: PackageChoice
    source: DebianArchive
    packages: tuple[Package, ...]
    temporary: Path
    step: Callable[[str], None]

    @classmethod
    def resolve(
        cls,
        choice: PackageChoice,
        store: ImageStore,
        architecture: str,
        refresh: bool,
        progress: BuildProgress,
    ) -> PackageSelection:
        """Resolve a choice.

        Raises:
            BuildFailed: a package is unknown, or the lists cannot be fetched.
        """
        source = DebianArchive(store.apt, architecture, progress.step)
        packages = choice.select(source, refresh=refresh)
        return cls(choice, source, packages, store.temporary, progress.step)

    def fetch(self, what: str) -> PackageSelection:
        """Download the packages; return this selection, or a newer one that replaces it.

        Raises:
            BuildFailed: a package cannot be fetched.
            DiskFull: the disk has too little space to make ``what`` of the packages.
        """
        self.source.check_room(self.packages, self.temporary, what)
        try:
            self.source.fetch(self.packages)
        except BuildFailed as error:
            # An old index may name a version that an update has replaced since.
            self.step(f"{error.message}; trying again with new package lists")
            newer = replace(self, packages=self.choice.select(self.source, refresh=True))
            self.source.fetch(newer.packages)
            return newer
        return self

    @property
    def architecture(self) -> str:
        """The packages' architecture."""
        return self.source.architecture

    def digests(self) -> list[str]:
        """Return the packages' digests."""
        return [package.sha256 for package in self.packages]

    def layers(self) -> Iterator[tuple[Package, Spool]]:
        """Yield each package with its files; threads decompress ahead."""
        with ThreadPoolExecutor(_UNPACKERS) as pool:
            spools = pool.map(lambda p: self.source.open(p, self.temporary), self.packages)
            try:
                for number, (package, spool) in enumerate(
                    zip(self.packages, spools, strict=True), 1
                ):
                    self.step(f"unpacking {number}/{len(self.packages)} {package.name}")
                    yield package, spool
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def scripts(self) -> Iterator[str]:
        """Yield the postinst script of each package."""
        return map(self.source.script, self.packages)

    def manifest(self) -> list[dict[str, Any]]:
        """Return the packages' entries for a manifest."""
        return [
            {
                "name": package.name,
                "version": package.version,
                "size": package.size,
                "sha256": package.sha256,
            }
            for package in self.packages
        ]


class DebianPackages:
    """Downloaded packages of one language for one architecture: a source of images."""

    kind = "debian"
    dialect: Dialect = "deb"
    trim: tuple[str, ...] = defaults.TRIM

    def __init__(self, selection: PackageSelection, recipe: DebianRecipe) -> None:
        self._selection = selection
        self._recipe = recipe
        self._find_interpreter = _find_interpreter(recipe, selection.packages)

    @classmethod
    def resolve(
        cls,
        language: Language,
        store: ImageStore,
        architecture: str,
        refresh: bool,
        progress: BuildProgress,
    ) -> DebianPackages:
        """Resolve and download the packages of a language.

        Raises:
            BuildFailed: the language has no Debian packages, Debian has another version, or a
                package cannot be fetched.
        """
        recipe = language.debian
        if recipe is None:
            raise BuildFailed(
                f"no Debian packages are known for {language.name}",
                "Its language file has no [image.debian]; take a container image: --from REFERENCE",
            )
        usual = defaults.TOOLS if recipe.tools else defaults.LEAST
        choice = PackageChoice((*usual, *recipe.packages), defaults.EXCLUDE | set(recipe.exclude))
        selection = PackageSelection.resolve(choice, store, architecture, refresh, progress)
        _check_version(language, recipe, selection.packages)
        what = f"the image {language.image}"
        return cls(selection.fetch(what), recipe)

    def key(self) -> dict[str, Any]:
        """Return the packages' digests and the version of the interpreter for bytecode."""
        return {
            "packages": self._selection.digests(),
            "bytecode": self._find_interpreter[2] if self._find_interpreter else None,
        }

    def layers(self) -> Iterator[tuple[str, Spool]]:
        """Yield each package's files."""
        return ((f"package {found.name}", spool) for found, spool in self._selection.layers())

    def prepare(self, tree: Tree) -> None:
        """Create the merged /usr that packages expect."""
        defaults.merge_usr(tree, self._selection.architecture)

    def complete(self, tree: Tree) -> list[str]:
        """Replace the work of maintainer scripts; return warnings."""
        defaults.complete_packages(tree, self._selection.scripts())
        if not self._recipe.bytecode:
            return []
        if self._find_interpreter is None:
            return ["no bytecode files: this machine lacks Python of the image's version"]
        self._selection.step("compiling Python's modules")
        bytecode.compile_all(tree, self._find_interpreter[0], self._find_interpreter[1])
        return []

    def close(self) -> None:
        """Do nothing: packages are opened one at a time."""

    def manifest(self) -> dict[str, Any]:
        """Return the release and the packages."""
        return {
            "source": {"kind": self.kind, "release": RELEASE},
            "packages": self._selection.manifest(),
        }


def _check_version(language: Language, recipe: DebianRecipe, packages: tuple[Package, ...]) -> None:
    """Check that the language's first package has the requested version.

    Raises:
        BuildFailed: Debian has another version.
    """
    versions = {package.name: package.version for package in packages}
    # Without the epoch: only dpkg calls 12.2.0 "4:12.2.0-3".
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


def _find_interpreter(
    recipe: DebianRecipe, packages: tuple[Package, ...]
) -> tuple[str, str, str] | None:
    """Return path, version (3.11) and full version of the interpreter for bytecode, if found."""
    if not recipe.bytecode:
        return None
    for version in bytecode.MAGIC:
        if any(package.name == f"python{version}-minimal" for package in packages):
            path = bytecode.find_interpreter(version)
            return None if path is None else (path, version, bytecode.read_full_version(path))
    return None
