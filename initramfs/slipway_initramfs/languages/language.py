"""Language: its commands with their limits, its file names and its recipes for images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from slipway_initramfs.languages.toolchain import Toolchain
from slipway_initramfs.store.records import BUILDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway_initramfs.languages.recipes import DebianRecipe, Recipe, RegistryRecipe
    from slipway_initramfs.store.records import Image

# The rules by which the files of a job are chosen and named; see ``docs/languages.md``.
RULES = ("include", "go", "node")
# Variables of every language; images and language files may give them other values.
ENVIRONMENT = MappingProxyType({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one phase, as a language suggests them.

    ``wall`` and ``cpu`` are seconds; ``memory`` (0: what the VM has), ``file_size`` (0: what the
    disk has) and ``output`` (of each stream) are MiB; ``processes`` counts threads as well.
    """

    wall: float
    cpu: float
    memory: int
    processes: int
    file_size: int
    open_files: int
    output: int


@dataclass(frozen=True, slots=True)
class Phase:
    """A command, run in the job's directory, where the source file lies; and its bounds.

    With ``prestart`` it may be started before there is a source file, and waits where it opens
    that; not for a job that brings one of the files ``prestart_unless``. ``out_of_memory`` are
    words of its runtime's: near the end of what it says before it fails, they tell that it
    failed for want of memory.
    """

    command: tuple[str, ...]
    limits: Limits
    prestart: bool = False
    out_of_memory: tuple[str, ...] = ()
    prestart_unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Language:
    """One language: ``source`` is the name under which the source file is put.

    With ``keeps_suffix`` it has the suffix of the caller's file. ``sources`` are the suffixes of
    the files that the build is told of, chosen by ``rules``, which is one of RULES.

    ``sample`` is a program that ends well and takes little: it is run once in a machine whose
    clones are to find everything warm. ``toolchain`` tells what compiles or interprets it.
    ``version`` is the one that was asked for, empty for the default.
    """

    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    source: str
    build: Phase | None
    run: Phase
    environment: Mapping[str, str]
    debian: DebianRecipe | None
    registry: RegistryRecipe
    version: str = ""
    sample: str = ""
    toolchain: Toolchain = field(default_factory=Toolchain)
    keeps_suffix: bool = False
    sources: tuple[str, ...] = ()
    rules: str = ""

    def with_suffix(self, suffix: str) -> Language:
        """Return it as it is for a source file with ``suffix``, which is one of its own."""
        if not self.keeps_suffix:
            return self
        return replace(self, source=self.source.rpartition(".")[0] + suffix)

    @property
    def image(self) -> str:
        """The name of the image: ``rust``, or ``rust@1.80``."""
        return f"{self.name}@{self.version}" if self.version else self.name

    def recipe(self, kind: str) -> Recipe | None:
        """Return the recipe for a source of this kind, ``debian`` or ``registry``."""
        return {"debian": self.debian, "registry": self.registry}.get(kind)

    def reference(self) -> str:
        """Return the reference of the container image for this version, or nothing."""
        version = self.version or self.registry.version
        return self.registry.reference.replace("{version}", version)

    def matches(self, image: Image) -> bool:
        """Check whether this version of Slipway would make ``image`` from the same recipe today."""
        recipe = self.recipe(str(image.source.get("kind")))
        return (
            image.manifest.get("builder") == BUILDER
            and recipe is not None
            and image.manifest.get("recipe") == recipe.as_json()
        )
