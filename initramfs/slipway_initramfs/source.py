"""Sources of images: the interface of a resolved source, and the choice between sources."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from slipway_initramfs.errors import BuildFailed, ImageError, InvalidReference
from slipway_initramfs.oci.reference import DOCKER_HUB, Reference
from slipway_initramfs.oci.registry import Access

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slipway_initramfs.disk.spool import Spool
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.rootfs.layers import Dialect
    from slipway_initramfs.rootfs.tree import Tree
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image

Kind = Literal["auto", "debian", "registry"]
KINDS: tuple[Kind, ...] = ("auto", "debian", "registry")


class Source(Protocol):
    """Resolved layers: their identity is known, their bytes may still have to be fetched."""

    kind: str
    dialect: Dialect
    # Paths left out of every image of this kind.
    trim: tuple[str, ...]

    def key(self) -> dict[str, Any]:
        """Return all inputs that the layers' bytes depend on, in JSON's types."""
        ...

    def layers(self) -> Iterator[tuple[str, Spool]]:
        """Yield the layers in order, the lowest first, each with a name for messages."""
        ...

    def prepare(self, tree: Tree) -> None:
        """Create the entries that the lowest layer expects."""
        ...

    def complete(self, tree: Tree) -> list[str]:
        """Add the entries that every guest needs; return warnings for the manifest."""
        ...

    def manifest(self) -> dict[str, Any]:
        """Return the origin of the layers, for the image's manifest."""
        ...

    def close(self) -> None:
        """Close connections and files."""
        ...


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Options for the source and form of an image.

    ``kind`` is the kind of source, ``reference`` a container image in place of the language's own,
    ``registry`` a host that replaces Docker Hub for the language's own images. ``compression`` and
    ``architecture`` are names (default: lz4, this machine's). With ``refresh`` the source is asked
    for newer content. ``emulated`` means that machines on this host are emulated.
    """

    kind: Kind = "auto"
    reference: Reference | None = None
    access: Access = field(default_factory=Access)
    registry: str = ""
    compression: str = ""
    architecture: str = ""
    refresh: bool = False
    emulated: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **given: Any) -> SourceOptions:
        """Return options, with ``SLIPWAY_SOURCE`` and ``SLIPWAY_REGISTRY`` for missing ones.

        Raises:
            InvalidReference: the source is unknown.
        """
        kind = given.pop("kind", None) or environment.get("SLIPWAY_SOURCE") or "auto"
        if kind not in KINDS:
            raise InvalidReference(
                f"unknown source {kind[:40]!r}", f"SLIPWAY_SOURCE can be {', '.join(KINDS)}."
            )
        registry = given.pop("registry", None) or environment.get("SLIPWAY_REGISTRY", "")
        return cls(kind=kind, registry=registry, **given)


def choose_source(
    language: Language,
    store: ImageStore,
    options: SourceOptions,
    architecture: str,
    existing: Image | None,
    progress: BuildProgress,
) -> Source:
    """Choose and resolve the source of an image.

    Without an option the source of an outdated ``existing`` image is used again, else the registry
    of the language, else Debian's packages if the registry does not answer.

    Raises:
        SourceUnavailable: no source answers.
        BuildFailed: the source has no such image, or refuses it.
        ImageError: a reference or document is invalid.
    """
    chooser = _Chooser(language, store, options, architecture, progress)
    if options.reference is not None:
        return chooser.use_container(options.reference, "as named", chosen=True)
    if options.kind != "auto":
        return chooser.use_kind(options.kind, f"source {options.kind}")
    if existing is not None and (source := chooser.use_previous(existing)) is not None:
        return source
    return chooser.use_first_available()


@dataclass(frozen=True, slots=True)
class _Chooser:
    """Choice between the sources of one image; each decision is reported with its reason."""

    language: Language
    store: ImageStore
    options: SourceOptions
    architecture: str
    progress: BuildProgress

    def use_debian(self, why: str) -> Source:
        from slipway_initramfs.debian.packages import DebianPackages

        self.progress.notice(f"{self.language.image}: from Debian's packages ({why})")
        return DebianPackages.resolve(
            self.language, self.store, self.architecture, self.options.refresh, self.progress
        )

    def use_container(self, reference: Reference, why: str, *, chosen: bool) -> Source:
        from slipway_initramfs.debian.tools import Tools
        from slipway_initramfs.oci.container_image import ContainerImage

        found = ContainerImage.resolve(
            reference, self.store, self.options.access, self.architecture, self.progress
        )
        found.chosen = chosen
        if self.language.registry.tools:
            found.tools = Tools.resolve(
                self.store, self.architecture, self.options.refresh, self.progress
            )
        self.progress.notice(f"{self.language.image}: from {reference} ({why})")
        return found

    def use_kind(self, kind: str, why: str) -> Source:
        """Return the language's own source of this kind."""
        if kind == "debian":
            return self.use_debian(why)
        named = _find_reference(self.language)
        if not named:
            raise BuildFailed(
                f"the language file has no container image for {self.language.image}",
                f"Name one: slipway image build --from docker://... {self.language.image}",
            )
        return self.use_container(_apply_mirror(named, self.options.registry), why, chosen=False)

    def use_previous(self, existing: Image) -> Source | None:
        """Return the source of an outdated or damaged image, or None if no longer known."""
        kind = existing.source.get("kind")
        if existing.source.get("chosen"):
            requested = str(existing.source.get("requested"))
            try:
                return self.use_container(Reference.parse(requested), "as before", chosen=True)
            except ImageError as error:
                name = self.language.image
                raise BuildFailed(
                    f"{name!r} was built from {requested[:80]!r}: {error.message}",
                    f"Name another image: slipway image build --from REFERENCE {name}",
                ) from error
        there = self.language.debian if kind == "debian" else _find_reference(self.language)
        return self.use_kind(str(kind), "as before") if there else None

    def use_first_available(self) -> Source:
        """Return the registry's image, or Debian's packages if that fails or takes too long."""
        named, warm = _find_reference(self.language), self.language.registry.warm
        if not named:
            return self.use_debian("its language file has no container image")
        slow = warm is not None and warm.slow and self.options.emulated
        # A requested version is worth the wait: Debian has a single version, most likely another.
        if slow and self.language.debian is not None and not self.language.version:
            return self.use_debian(
                "warming a container image up would take long on an emulated machine"
            )
        try:
            return self.use_kind("registry", "its registry answers")
        except BuildFailed as error:
            if self.language.debian is None:
                raise
            try:
                return self.use_debian(error.message)
            except ImageError as other:
                # Either may be the cause: report both.
                raise BuildFailed(f"{error.message}, and {other.message}", error.hint) from other


def _find_reference(language: Language) -> str:
    """Return the reference for a language's version, or an empty string."""
    if language.version and "{version}" not in language.registry.reference:
        return ""
    return language.reference()


def _apply_mirror(named: str, registry: str) -> Reference:
    """Return the reference of a language file, with ``registry`` in place of Docker Hub."""
    reference = Reference.parse(named)
    if not registry or reference.registry != DOCKER_HUB:
        return reference
    tail = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    found = Reference.parse(f"docker://{registry}/{reference.repository}{tail}")
    if found.registry == DOCKER_HUB and found.repository != reference.repository:
        # The name would be a user's name on Docker Hub, not a mirror's host.
        raise InvalidReference(
            f"the registry {registry[:80]!r} is not a host",
            "Write HOST or HOST:PORT; a host without a dot needs its port.",
        )
    return found
