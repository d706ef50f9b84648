"""Recipes of a language file: instructions for building the images of a language."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Warmup:
    """A command that an image runs once, in a machine, to make later starts faster.

    ``command`` writes ``warm.tar`` into its working directory; the archive is unpacked over the
    root. The warm-up is skipped if a file matches the glob ``unless`` (may be empty). ``memory`` is
    the memory that the command and its files need besides the image, in MiB. A ``slow`` warm-up
    takes a minute of processor time or more, and several minutes on an emulated machine.
    """

    command: tuple[str, ...]
    unless: str
    memory: int
    slow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Instructions for the layers of an image of any source.

    ``links`` (path -> target) and ``files`` (path -> text) are added; files that begin with ``#!``
    become executable. ``warm`` runs once. ``trim`` are globs of paths that are removed at the end.
    With ``tools`` the base set of tools is added. ``programs`` are the first words of the
    language's commands, which the image must have. ``workload`` is the memory that a usual program
    needs besides the image, in MiB.
    """

    trim: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    warm: Warmup | None = None
    tools: bool = False
    programs: tuple[str, ...] = ()
    workload: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the recipe in JSON's types, as manifests store and compare it."""
        return {each.name: _convert_value(getattr(self, each.name)) for each in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianRecipe(Recipe):
    """Recipe for Debian packages: ``packages`` and their dependencies, except ``exclude``.

    With ``bytecode`` Python's modules are compiled.
    """

    packages: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    bytecode: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRecipe(Recipe):
    """Recipe for a container image.

    ``reference`` has ``{version}`` in place of the version; ``version`` is the default version.
    Without a reference the image must be named by the caller.
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
