"""Build of an image: source, layers, tree, trimming, archive, store."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs import freeze, warmup
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.compression.compressors import create_compressor
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.languages.language import ENVIRONMENT
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.rootfs import defaults, loader_cache, programs
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.tree import Tree
from slipway_initramfs.source import SourceOptions, choose_source
from slipway_initramfs.store.records import BUILDER, Image
from slipway_initramfs.units import MIB, format_mib

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.languages.recipes import Recipe
    from slipway_initramfs.source import Source
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.warmup import Warmer


COMPRESSION = "lz4"
_PROGRAM = "#!"
_SHOWN = 4


def build_image(
    language: Language,
    store: ImageStore,
    options: SourceOptions | None = None,
    *,
    progress: BuildProgress | None = None,
    warmer: Warmer | None = None,
) -> Image:
    """Return the image of a language; build it if no intact image in the store fits the options.

    An image in the store is kept if its recipe is the one of this language, its bytes are intact
    and the options name no other source. A reference in the options is resolved again each time.
    ``warmer`` runs the warm-up of the recipe; without a warmer the image stays cold, with a warning
    in its manifest. For a language without a version, ``ImageStore.set_default`` selects the
    version.

    Raises:
        BuildFailed: the image cannot be built.
        ImageError: an option or the store is invalid.
    """
    options, progress = options or SourceOptions(), progress or BuildProgress()
    arch = options.architecture or machine_architecture()
    language = _choose_version(language, store, arch)
    name = f"{language.image}-{arch}"
    with store.building(f"image-{name}", progress.step):
        existing = _find_existing(store, language, arch, progress.step)
        intact = _check_existing(existing, language, progress.step)
        if intact is not None and _fits_options(intact, options):
            return intact
        source = choose_source(language, store, options, arch, existing, progress)
        with closing(source):
            maker = _ImageBuilder(
                store, arch, source, language, options.compression or COMPRESSION, progress
            )
            key = maker.key()
            if intact is not None and intact.manifest.get("build_key") == key:
                # The content is the same, the reference may be another.
                manifest = {**intact.manifest, **source.manifest()}
                if manifest == intact.manifest:
                    return intact
            else:
                manifest = {
                    "name": language.image,
                    "language": language.name,
                    "workload": maker.recipe.workload * MIB,
                    **maker.make(warmer, existing),
                }
        store.put_record("image", name, manifest)
    image = store.image(language.image, arch)
    if image is None:
        raise ImageError(f"the image {name} was removed during the build")
    return image


def _choose_version(language: Language, store: ImageStore, arch: str) -> Language:
    """Return the language with the version that its bare name stands for."""
    version = "" if language.version else store.default(language.name, arch).partition("@")[2]
    return replace(language, version=version) if version else language


def _find_existing(
    store: ImageStore, language: Language, arch: str, report: Callable[[str], None]
) -> Image | None:
    """Return the image's record in the store, of any source; its archive may be missing."""
    try:
        image = store.image(language.image, arch)
    except ImageCorrupted as error:
        report(f"{error.message}; building it again")
        return None
    return image if image is not None and image.name == language.image else None


def _check_existing(
    image: Image | None, language: Language, report: Callable[[str], None]
) -> Image | None:
    """Return the image if it is intact and a build today would use the same recipe."""
    if image is None or not language.matches(image):
        return None
    try:
        image.verify()
    except ImageCorrupted as error:
        report(f"{error.message}; building it again")
        return None
    return image


def _fits_options(image: Image, options: SourceOptions) -> bool:
    """Check whether the options allow to keep an existing image."""
    if options.refresh or options.reference is not None:
        return False
    if options.compression not in ("", image.manifest["archive"].get("compression")):
        return False
    if options.kind == "auto":
        return True
    # An image that a caller named does not stand for the image of the language's registry.
    return options.kind == image.source.get("kind") and not image.source.get("chosen")


class _ImageBuilder:
    """Build of one image from one resolved source."""

    def __init__(
        self,
        store: ImageStore,
        architecture: str,
        source: Source,
        language: Language,
        compression: str,
        progress: BuildProgress,
    ) -> None:
        self._store = store
        self._architecture = architecture
        self._source = source
        recipe = language.recipe(source.kind)
        assert recipe is not None
        self.recipe: Recipe = recipe
        self._environment = language.environment
        self._compression = compression
        self._step = progress.step

    def key(self) -> str:
        """Return a digest of all inputs that the image's bytes depend on."""
        inputs: dict[str, Any] = {
            "builder": BUILDER,
            "architecture": self._architecture,
            "compression": self._compression,
            "recipe": self.recipe.as_json(),
            **self._source.key(),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()

    def make(self, warmer: Warmer | None, existing: Image | None) -> dict[str, Any]:
        """Build the archive, store it and return the manifest."""
        tree = Tree()
        self._source.prepare(tree)
        dropped = 0
        names: set[str] = set()
        for label, layer in self._source.layers():
            try:
                report = apply_layer(tree, layer, self._source.dialect)
            except ImageError as error:
                raise BuildFailed(f"{label}: {error.message}", error.hint) from error
            dropped += report.dropped_xattrs
            names.update(report.xattr_names)
        removed = tree.remove(self._source.trim).size
        warnings = self._source.complete(tree)
        if dropped:
            shown = ", ".join(map(repr, sorted(names)[:_SHOWN]))
            warnings.append(
                f"{dropped} extended attributes dropped (an initramfs cannot hold them): {shown}"
            )
        warnings += self._add_recipe_entries(tree)
        warm_result = warmup.warm_up(
            tree, self.recipe, lambda: self._build_trial_image(tree), warmer, existing, self._store
        )
        removed += tree.remove(self.recipe.trim).size
        loader_cache.add_loader_cache(tree, self._architecture)
        origin = self._source.manifest()
        self._check_programs(tree, origin)
        manifest = {
            **self._pack_tree(tree, self._compression, self.key()),
            **origin,
            "recipe": self.recipe.as_json(),
            "trimmed": removed,
            "warnings": warnings + warm_result.warnings,
        }
        if warm_result.record:
            manifest["warm"] = warm_result.record
        return manifest

    def _add_recipe_entries(self, tree: Tree) -> list[str]:
        """Add the links and files of the recipe; return warnings."""
        for path, target in self.recipe.links.items():
            if "*" not in target:
                tree.add_symlink(path, target)
                continue
            found = tree.glob(target)
            if not found:
                raise BuildFailed(
                    f"cannot link {path}: nothing in the image matches {target}",
                    "The layout of the image differs from the one that its language file expects.",
                )
            # Into a directory, each match under its own name; else only the last, newest match.
            for match in found if path.endswith("/") else found[-1:]:
                name = match.rpartition("/")[2] if path.endswith("/") else ""
                tree.add_symlink(path + name, f"/{match}")
        for path, text in self.recipe.files.items():
            mode = 0o755 if text.startswith(_PROGRAM) else 0o644
            tree.add_file(path, text.encode(), mode)
        return [
            f"the link {path} leads to {target}, which is missing"
            for path, target in self.recipe.links.items()
            if not path.endswith("/") and tree.find(path) is None
        ]

    def _check_programs(self, tree: Tree, manifest: dict[str, Any]) -> None:
        image = manifest.get("config", {}).get("environment", {})
        variables = {**ENVIRONMENT, **image, **self._environment}
        programs.check_programs(tree, self.recipe.programs, variables["PATH"])

    def _build_trial_image(self, tree: Tree) -> Image:
        """Return the present tree as an unnamed image that a machine can boot."""
        # The digest depends on the content only: it finds the result of an earlier warm-up.
        packed = self._pack_tree(tree, COMPRESSION, "warming")
        manifest = {"workload": 0, **packed, **self._source.manifest()}
        archive = manifest["archive"]
        blob = self._store.blob(archive["digest"], archive["size"])
        return Image("warming", self._architecture, archive["digest"], blob, manifest)

    def _pack_tree(self, tree: Tree, compression: str, key: str) -> dict[str, Any]:
        """Store the archive of ``tree``; return the archive's part of the manifest."""
        if tree.find(freeze.ROOT, follow=False) is not None:
            # The guest unpacks the root over the agent.
            raise BuildFailed(
                f"the image has a file at /{freeze.ROOT}, which is reserved for the agent"
            )
        tree.add_file(defaults.SENTINEL, f"{key}\n".encode())
        usage = tree.usage()
        self._step(f"packing {usage.files} files, {format_mib(usage.size, 0)}")

        def write(file: BinaryIO) -> None:
            packer = create_compressor(compression, file)
            try:
                write_tree(tree, packer, last=(defaults.SENTINEL,))
            finally:
                packer.close()

        archive = self._store.put_blob(write)
        return {
            "architecture": self._architecture,
            "builder": BUILDER,
            "build_key": key,
            "archive": {
                "digest": archive.digest,
                "size": archive.size,
                "compression": compression,
            },
            "files": usage.files,
            "root": usage.size,
            "memory": usage.memory,
        }
