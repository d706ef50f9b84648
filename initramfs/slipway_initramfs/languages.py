"""Languages: what an image is made of, and how a source file is built and run.

Each is one TOML file, read strictly: an unknown key or a value of the wrong kind is an error that
names file and key. ``docs/adding-a-language.md`` explains every key.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from slipway_initramfs.errors import InvalidLanguage, UnknownLanguage

if TYPE_CHECKING:
    from collections.abc import Mapping

_T = TypeVar("_T")
_MAX_FILE = 1 << 20
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789+#-.")
WARM_UPS = frozenset({"python-bytecode"})
"""What ``warm`` may ask for: see build.py."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one phase, as a language suggests them.

    ``wall`` and ``cpu`` are seconds; ``memory`` (0: what the VM has), ``file_size`` and ``output``
    (of each stream) are MiB; ``processes`` counts threads as well.
    """

    wall: float
    cpu: float
    memory: int
    processes: int
    file_size: int
    open_files: int
    output: int


BUILD_LIMITS = Limits(120, 120, 0, 512, 512, 1024, 1)
RUN_LIMITS = Limits(30, 30, 0, 128, 256, 512, 16)
"""What holds where a language file says nothing."""


ENVIRONMENT = MappingProxyType({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})
"""Variables of every language; a file may give them other values."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A command, run in the job's directory, where the source file lies; and its bounds."""

    command: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is made of; images of equal recipes and packages are equal.

    ``packages`` are installed with all they depend on but ``exclude``; ``trim`` are globs of what
    is removed then; ``links`` (path -> target) and ``files`` (path -> text) are added, a file that
    begins with ``#!`` as a program; ``warm`` names what is prepared so that the first program
    starts fast; ``workload`` is the memory in MiB that a usual program needs on top of the image.
    """

    packages: tuple[str, ...]
    exclude: tuple[str, ...]
    trim: tuple[str, ...]
    links: Mapping[str, str]
    files: Mapping[str, str]
    warm: tuple[str, ...]
    workload: int

    def plain(self) -> dict[str, Any]:
        """Return the recipe in the form in which a manifest keeps and compares it."""
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                value = list(value)
            plain[field.name] = value if isinstance(value, (list, int)) else dict(value)
        return plain


@dataclass(frozen=True, slots=True)
class Language:
    """One language: ``source`` is the name under which the source file is put."""

    name: str
    aliases: tuple[str, ...]
    suffixes: tuple[str, ...]
    source: str
    build: Phase | None
    run: Phase
    environment: Mapping[str, str]
    recipe: Recipe
    oci: str


def directory() -> Path:
    """Return where the language files are: in a wheel inside the package, else in the checkout."""
    installed = Path(__file__).with_name("languages")
    return installed if installed.is_dir() else Path(__file__).parents[1] / "languages"


@cache
def all_languages() -> Mapping[str, Language]:
    """Return the languages that come with Slipway, by name."""
    found = (load(path) for path in sorted(directory().glob("*.toml")))
    return MappingProxyType({language.name: language for language in found})


def by_name(name: str) -> Language:
    """Return the language of this name or alias, in any case; else raise UnknownLanguage."""
    wanted = name.strip().lower()
    known: dict[str, Language] = {}
    for language in all_languages().values():
        known |= dict.fromkeys((language.name, *language.aliases), language)
    if wanted not in known:
        raise _unknown(f"unknown language {name[:40]!r}", wanted, list(known))
    return known[wanted]


def by_suffix(path: str | Path) -> Language:
    """Return the language of a source file by its suffix; else raise UnknownLanguage."""
    suffix = Path(path).suffix
    known: dict[str, Language] = {}
    for language in all_languages().values():
        known |= dict.fromkeys(language.suffixes, language)
    # ".C" is C++ by an old custom; else case means nothing.
    found = known.get(suffix) or known.get(suffix.lower())
    if found is None:
        what = f"the suffix {suffix[:40]!r}" if suffix else "a file without a suffix"
        raise _unknown(f"no language has {what}", suffix.lower(), list(known))
    return found


def load(path: Path) -> Language:
    """Read one language file; raises InvalidLanguage that names file and key."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise InvalidLanguage(f"cannot read the language file {path}: {error.strerror}") from error
    if len(data) > _MAX_FILE:
        raise InvalidLanguage(f"the language file {path} is longer than 1 MiB")
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidLanguage(f"the language file {path} is no valid TOML: {error}") from error
    return _language(_Table(path.name, "", values))


class _Table:
    """A table of the file: each key is taken once, and none may be left at the end."""

    def __init__(self, file: str, prefix: str, values: dict[str, Any]) -> None:
        self._file = file
        self._prefix = prefix
        self._values = dict(values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def wrong(self, key: str, what: str) -> InvalidLanguage:
        return InvalidLanguage(
            f"{self._file}: {self._prefix}{key} {what}", "See docs/adding-a-language.md"
        )

    def take(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        value = self._values.pop(key, default)
        if value is None:
            raise self.wrong(key, "is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(key, f"has to be of the kind {kind.__name__}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.take(key, str, default)
        if "\0" in value:
            raise self.wrong(key, "has a NUL")
        return value

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        values = self.take(key, list, None if required else [])
        if not all(isinstance(value, str) and value and "\0" not in value for value in values):
            raise self.wrong(key, "has to be a list of texts that are not empty")
        if required and not values:
            raise self.wrong(key, "is empty")
        return tuple(values)

    def mapping(self, key: str) -> Mapping[str, str]:
        values = self.take(key, dict, {})
        for name, value in values.items():
            if not isinstance(value, str) or "\0" in value or "\0" in name or not name:
                raise self.wrong(f"{key}.{name}", "has to be a text")
        return MappingProxyType(values)

    def number(self, key: str, default: float) -> float:
        value = self._values.pop(key, default)
        if type(value) not in (int, float) or not 0 < value <= 86400:
            raise self.wrong(key, "has to be a number of seconds between 0 and 86400")
        return float(value)

    def count(self, key: str, default: int, *, least: int = 1) -> int:
        value = self._values.pop(key, default)
        if type(value) is not int or not least <= value <= 1 << 20:
            raise self.wrong(key, f"has to be a whole number between {least} and {1 << 20}")
        return value

    def table(self, key: str) -> _Table:
        return _Table(self._file, f"{self._prefix}{key}.", self.take(key, dict, {}))

    def done(self) -> None:
        for key in self._values:
            raise self.wrong(key, "is not known")


def _language(table: _Table) -> Language:
    name = table.text("name")
    if not name or not _NAME.issuperset(name) or name[0] in ".-":
        raise table.wrong("name", "has to be of small letters, digits, '+', '#', '-' and '.'")
    source = table.text("source")
    if not source or "/" in source or source in (".", ".."):
        raise table.wrong("source", "has to be a file name")
    suffixes = table.texts("suffixes", required=True)
    if not all(suffix.startswith(".") and len(suffix) > 1 for suffix in suffixes):
        raise table.wrong("suffixes", "have to begin with a dot")
    aliases = table.texts("aliases")
    if any(alias != alias.lower() for alias in aliases):
        raise table.wrong("aliases", "have to be in small letters")
    environment = MappingProxyType({**ENVIRONMENT, **table.mapping("environment")})
    if any("=" in variable for variable in environment):
        raise table.wrong("environment", "has a name with '='")
    language = Language(
        name=name,
        aliases=aliases,
        suffixes=suffixes,
        source=source,
        build=_phase(table.table("build"), BUILD_LIMITS) if "build" in table else None,
        run=_phase(table.table("run"), RUN_LIMITS),
        environment=environment,
        recipe=_recipe(image := table.table("image")),
        oci=image.text("oci", ""),
    )
    image.done()
    table.done()
    return language


def _phase(table: _Table, default: Limits) -> Phase:
    command = table.texts("command", required=True)
    limits = table.table("limits")
    phase = Phase(
        command,
        Limits(
            wall=limits.number("wall", default.wall),
            cpu=limits.number("cpu", default.cpu),
            memory=limits.count("memory", default.memory, least=0),
            processes=limits.count("processes", default.processes),
            file_size=limits.count("file_size", default.file_size),
            open_files=limits.count("open_files", default.open_files),
            output=limits.count("output", default.output),
        ),
    )
    limits.done()
    table.done()
    return phase


def _recipe(table: _Table) -> Recipe:
    recipe = Recipe(
        packages=table.texts("packages", required=True),
        exclude=table.texts("exclude"),
        trim=table.texts("trim"),
        links=table.mapping("links"),
        files=table.mapping("files"),
        warm=table.texts("warm"),
        workload=table.count("workload", 64),
    )
    for package in recipe.packages:
        # Whatever else apt would understand (options, versions, patterns) is no package name.
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package):
            raise table.wrong("packages", f"has {package!r}, which is no package name")
    if unknown := set(recipe.warm) - WARM_UPS:
        raise table.wrong("warm", f"has {min(unknown)!r}; known are {', '.join(sorted(WARM_UPS))}")
    for path in (*recipe.links, *recipe.files, *recipe.trim):
        if path.startswith("/") or ".." in path.split("/"):
            raise table.wrong("links, files and trim", f"take paths below the root: {path!r}")
    return recipe


def _unknown(message: str, wanted: str, known: list[str]) -> UnknownLanguage:
    import difflib

    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    if near:
        return UnknownLanguage(message, f"Did you mean {' or '.join(near)}?")
    return UnknownLanguage(message, f"Known are {', '.join(sorted(known))}.")
