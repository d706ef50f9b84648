"""Language: commands with limits, file names, and recipes for images."""

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

# Rules that choose and name the files of a job; see ``docs/languages.md``.
RULES = ("include", "go", "node")
# Variables of every language; images and language files may override them.
ENVIRONMENT = MappingProxyType({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a phase, as a language suggests them.

    ``wall`` and ``cpu`` are in seconds; ``memory`` (0: the VM's), ``file_size`` (0: the disk's) and
    ``output`` (per stream) are in MiB; ``processes`` includes threads.
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
    """A command, run in the directory of the job's source file, with its limits.

    With ``prestart`` the command may be started before the source file exists, and waits where it
    opens the file; except for jobs with a file named in ``prestart_unless``. ``out_of_memory`` are
    words of the runtime: near the end of a failed program's output they mean lack of memory.
    """

    command: tuple[str, ...]
    limits: Limits
    prestart: bool = False
    out_of_memory: tuple[str, ...] = ()
    prestart_unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Language:
    """A language. ``source`` is the file name of the program's source in the job's directory.

    With ``keeps_suffix`` the source keeps the suffix of the caller's file. ``sources`` are the
    suffixes of the files that the build command receives, chosen by ``rules``, a member of RULES.

    ``sample`` is a small program that ends successfully. A new template runs the sample once, to
    warm its clones. ``toolchain`` describes the compiler or interpreter. ``version`` is the
    requested version, or empty for the default.
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
        """Return this language for a source file with ``suffix``, one of its suffixes."""
        if not self.keeps_suffix:
            return self
        return replace(self, source=self.source.rpartition(".")[0] + suffix)

    @property
    def image(self) -> str:
        """Name of the image: ``rust``, or ``rust@1.80``."""
        return f"{self.name}@{self.version}" if self.version else self.name

    def recipe(self, kind: str) -> Recipe | None:
        """Return the recipe for a source of this kind, ``debian`` or ``registry``, or None."""
        return {"debian": self.debian, "registry": self.registry}.get(kind)

    def reference(self) -> str:
        """Return the reference of the container image for this version, or an empty string."""
        version = self.version or self.registry.version
        return self.registry.reference.replace("{version}", version)

    def matches(self, image: Image) -> bool:
        """Check whether a build today would make ``image`` from the same recipe."""
        recipe = self.recipe(str(image.source.get("kind")))
        return (
            image.manifest.get("builder") == BUILDER
            and recipe is not None
            and image.manifest.get("recipe") == recipe.as_json()
        )
