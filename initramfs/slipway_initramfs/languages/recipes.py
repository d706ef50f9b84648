"""Recipes of a language file: how the images of a language are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Warmup:
    """What an image runs once, in a machine of its own, so that each program starts fast.

    ``command`` leaves ``warm.tar`` in its working directory, which is unpacked over the root. It is
    left out where something matches the glob ``unless`` already (may be empty). ``memory`` is what
    it needs beside the image, in MiB, its files included; one that is ``slow`` takes a minute of
    processor time or more, and so many where a machine is emulated.
    """

    command: tuple[str, ...]
    unless: str
    memory: int
    slow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done with the layers of an image, wherever they come from.

    ``links`` (path -> target) and ``files`` (path -> text) are added, a file that begins with
    ``#!`` as a program; ``warm`` is run once; ``trim`` are globs of what is removed at the end.
    ``tools`` says whether the base set of tools is added, ``programs`` are those that the
    language's commands begin with, which have to be there at the end. ``workload`` is the memory in
    MiB that a usual program needs on top of the image.
    """

    trim: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    warm: Warmup | None = None
    tools: bool = False
    programs: tuple[str, ...] = ()
    workload: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the recipe in the form in which a manifest keeps and compares it."""
        return {each.name: _convert_value(getattr(self, each.name)) for each in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianRecipe(Recipe):
    """An image made of Debian packages: ``packages`` and all they depend on but ``exclude``.

    ``bytecode`` has Python's modules compiled.
    """

    packages: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    bytecode: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRecipe(Recipe):
    """An image made of a container image.

    ``reference`` has ``{version}`` where the version goes, ``version`` is the one that is taken
    where none is asked for. Without a reference only an image that a caller names can be taken.
    """

    reference: str = ""
    version: str = ""


def _convert_value(value: Any) -> Any:
    """Return a recipe's value in JSON's types."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Warmup):
        return {name.name: _convert_value(getattr(value, name.name)) for name in fields(value)}
    return value if isinstance(value, (int, str, type(None))) else dict(value)
