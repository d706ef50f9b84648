"""The seam between where an image's layers come from and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from slipway_initramfs.errors import BuildFailed, ImageError
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.oci.registry import Access

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slipway_initramfs.languages import Language
    from slipway_initramfs.layers import Dialect
    from slipway_initramfs.records import Image
    from slipway_initramfs.reports import Reports
    from slipway_initramfs.spool import Spool
    from slipway_initramfs.store import ImageStore
    from slipway_initramfs.tree import Tree

Kind = Literal["auto", "debian", "registry"]
KINDS: tuple[Kind, ...] = ("auto", "debian", "registry")
DOCKER_HUB = "docker.io"


class Source(Protocol):
    """Layers that are resolved: what they are is known, though they may have to be fetched yet."""

    kind: str
    dialect: Dialect
    trim: tuple[str, ...]
    """What is left out of every image of this kind."""

    def key(self) -> dict[str, Any]:
        """Return all that the bytes of the layers depend on, in JSON's types."""
        ...

    def layers(self) -> Iterator[tuple[str, Spool]]:
        """Give the layers in order, the lowest first, each with its name for messages."""
        ...

    def prepare(self, tree: Tree) -> None:
        """Lay out what the lowest layer expects to find."""
        ...

    def complete(self, tree: Tree) -> list[str]:
        """Add what every guest needs; return warnings for the manifest."""
        ...

    def manifest(self) -> dict[str, Any]:
        """Return what the image's manifest says about where it comes from."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


@dataclass(frozen=True, slots=True)
class Choices:
    """What may be chosen about an image beside its language.

    ``kind`` is the source, ``reference`` a container image instead of the language's own,
    ``registry`` the host that is asked instead of Docker Hub for those. ``compression`` and
    ``architecture`` are names, by default lz4 and this machine's. With ``refresh`` the source is
    asked for something newer. ``emulated`` says that machines here have no processor of their own.
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
    def of_environment(cls, environment: Mapping[str, str], **given: Any) -> Choices:
        """Return choices with ``SLIPWAY_SOURCE`` and ``SLIPWAY_REGISTRY`` for what is not given.

        Raises BuildFailed for a source that there is not.
        """
        kind = given.pop("kind", None) or environment.get("SLIPWAY_SOURCE") or "auto"
        if kind not in KINDS:
            raise BuildFailed(
                f"there is no source {kind[:40]!r}", f"SLIPWAY_SOURCE can be {', '.join(KINDS)}."
            )
        registry = given.pop("registry", None) or environment.get("SLIPWAY_REGISTRY", "")
        return cls(kind=kind, registry=registry, **given)


def choose(
    language: Language,
    store: ImageStore,
    choices: Choices,
    architecture: str,
    existing: Image | None,
    reports: Reports,
) -> Source:
    """Resolve where the image of ``language`` shall come from.

    Without a choice it comes from where an outdated ``existing`` one came from, else from the
    registry that the language names, and from Debian's packages if that does not answer. Raises
    ImageError (mostly BuildFailed, SourceUnavailable).
    """
    from slipway_initramfs.oci.source import ContainerImage
    from slipway_initramfs.packages import DebianPackages

    def debian(why: str) -> Source:
        reports.notice(f"{language.image}: from Debian's packages ({why})")
        return DebianPackages.resolve(language, store, architecture, choices.refresh, reports)

    def container(reference: Reference, why: str, *, chosen: bool) -> Source:
        found = ContainerImage.resolve(reference, store, choices.access, architecture, reports)
        found.chosen = chosen
        reports.notice(f"{language.image}: from {reference} ({why})")
        return found

    kind, reference, why = choices.kind, choices.reference, f"source {choices.kind}"
    if reference is None and kind == "auto" and existing is not None:
        kind, why = existing.source.get("kind", "auto"), "as before"
        if existing.source.get("chosen"):
            reference = Reference.parse(str(existing.source.get("requested")))
    if reference is not None:
        return container(reference, "as named" if choices.reference else why, chosen=True)
    if kind == "debian":
        return debian(why)
    named = language.reference()
    if not named:
        if kind == "registry":
            raise BuildFailed(
                f"no container image is known for {language.name}",
                f"Name one: slipway image build --from docker://... {language.name}",
            )
        return debian("no container image is known for it")
    default = _of_registry(named, choices.registry)
    if kind == "registry":
        return container(default, why, chosen=False)
    warm = language.registry.warm
    slow = warm is not None and warm.slow and choices.emulated
    # A version that was asked for is worth the wait: Debian has one, and most likely another.
    if slow and language.debian is not None and not language.version:
        return debian("warming a container image up would take long on an emulated machine")
    try:
        return container(default, "its registry answers", chosen=False)
    except BuildFailed as error:
        if language.debian is None:
            raise
        try:
            return debian(error.message)
        except ImageError as other:
            # Which of the two is the cause nobody knows: a person is to see both.
            raise BuildFailed(f"{error.message}, and {other.message}", error.hint) from other


def _of_registry(named: str, registry: str) -> Reference:
    """Return the reference of a language file; Docker Hub's are asked for at ``registry``."""
    reference = Reference.parse(named)
    if not registry or reference.registry != DOCKER_HUB:
        return reference
    tail = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    return Reference.parse(f"docker://{registry}/{reference.repository}{tail}")
