"""The language file, one TOML table, read strictly.

An unknown key or a value of the wrong kind is an error that names file and key.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from slipway_initramfs.errors import InvalidLanguage
from slipway_initramfs.languages.language import RULES, Language, Limits, Phase
from slipway_initramfs.languages.recipes import DebianRecipe, Recipe, RegistryRecipe, WarmUp
from slipway_initramfs.languages.toolchain import PLACE, Toolchain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_T = TypeVar("_T")
_R = TypeVar("_R", bound=Recipe)
_MAX_FILE = 1 << 20
_SUFFIX = "{suffix}"
# Of words that the agent is told, and of the letters of each.
_MAX_WORDS = 64
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789+#-.")
BUILD_LIMITS = Limits(120, 120, 0, 1024, 0, 65536, 1)
# What holds where a language file says nothing.
RUN_LIMITS = Limits(30, 30, 0, 1024, 0, 65536, 16)


def read(path: Path) -> bytes:
    """Return the bytes of a language file; raises InvalidLanguage."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise InvalidLanguage(f"cannot read the language file {path}: {error.strerror}") from error
    if len(data) > _MAX_FILE:
        raise InvalidLanguage(f"the language file {path} is longer than 1 MiB")
    return data


def parse(data: bytes, name: str) -> Language:
    """Return the language that ``data`` describes; ``name`` stands for the file in messages.

    Raises InvalidLanguage.
    """
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidLanguage(f"the language file {name} is no valid TOML: {error}") from error
    return _language(_Table(name, "", values))


def is_name(text: str) -> bool:
    """Whether a language can be called so."""
    return 0 < len(text) <= 64 and _NAME.issuperset(text) and text[0] not in ".-"


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

    def words(self, key: str) -> tuple[str, ...]:
        words = self.texts(key)
        if len(words) > _MAX_WORDS or any(len(word) > _MAX_WORDS for word in words):
            raise self.wrong(key, f"has to be at most {_MAX_WORDS} texts of so many letters")
        return words

    def mapping(self, key: str) -> Mapping[str, str]:
        values = self.take(key, dict, {})
        for name, value in values.items():
            if not isinstance(value, str) or "\0" in value or "\0" in name or not name:
                raise self.wrong(f"{key}.{name}", "has to be a text")
        return MappingProxyType(values)

    def paths(self, key: str) -> tuple[str, ...]:
        return tuple(self._below_root(key, path) for path in self.texts(key))

    def path_mapping(self, key: str) -> Mapping[str, str]:
        values = self.mapping(key)
        for path in values:
            self._below_root(key, path)
        return values

    def _below_root(self, key: str, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise self.wrong(key, f"takes paths below the root: {path!r}")
        return path

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
    if not is_name(name):
        raise table.wrong("name", "has to be of small letters, digits, '+', '#', '-' and '.'")
    suffixes = table.texts("suffixes", required=True)
    sources = table.texts("sources")
    for key, given in (("suffixes", suffixes), ("sources", sources)):
        if not all(suffix.startswith(".") and len(suffix) > 1 for suffix in given):
            raise table.wrong(key, "have to begin with a dot")
    source = table.text("source")
    keeps_suffix = source.endswith(_SUFFIX)
    if keeps_suffix:
        source = source.removesuffix(_SUFFIX) + suffixes[0]
    if not source or "/" in source or source in (".", ".."):
        raise table.wrong("source", "has to be a file name")
    rules = table.text("rules", "")
    if rules and rules not in RULES:
        raise table.wrong("rules", f"has to be one of {', '.join(RULES)}")
    aliases = table.texts("aliases")
    if any(not is_name(alias) for alias in aliases):
        raise table.wrong("aliases", "have to be such as the name may be")
    environment = table.mapping("environment")
    if any("=" in variable for variable in environment):
        raise table.wrong("environment", "has a name with '='")
    build = _phase(table.table("build"), BUILD_LIMITS) if "build" in table else None
    run = _run(table.table("run"), source, built=build is not None)
    image = table.table("image")
    common = Recipe(
        workload=image.count("workload", 64),
        tools=image.take("tools", bool, True),
        programs=tuple(dict.fromkeys(phase.command[0] for phase in (build, run) if phase)),
    )
    language = Language(
        name=name,
        aliases=aliases,
        suffixes=suffixes,
        source=source,
        build=build,
        run=run,
        environment=environment,
        debian=_debian(image.table("debian"), common) if "debian" in image else None,
        registry=_registry(image.table("registry"), common),
        sample=table.text("sample", ""),
        toolchain=_toolchain(image.table("toolchain")) if "toolchain" in image else Toolchain(),
        keeps_suffix=keeps_suffix,
        sources=sources,
        rules=rules,
    )
    image.done()
    table.done()
    return language


def _run(table: _Table, source: str, *, built: bool) -> Phase:
    prestart = table.take("prestart", bool, False)
    if prestart and built:
        raise table.wrong("prestart", "is for programs that need no build")
    unless = table.texts("prestart_unless")
    if unless and not prestart:
        raise table.wrong("prestart_unless", "is for a program with 'prestart'")
    if any("/" in name or name in {"", ".", ".."} for name in unless):
        raise table.wrong("prestart_unless", "has to hold file names")
    phase = replace(_phase(table, RUN_LIMITS), prestart=prestart, prestart_unless=unless)
    if prestart and not {source, "{source}"} & set(phase.command):
        raise table.wrong("prestart", f"needs a command with the source {source!r} as an argument")
    return phase


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
            file_size=limits.count("file_size", default.file_size, least=0),
            open_files=limits.count("open_files", default.open_files),
            output=limits.count("output", default.output),
        ),
        out_of_memory=table.words("out_of_memory"),
    )
    limits.done()
    table.done()
    return phase


def _with_common(recipe: _R, table: _Table, common: Recipe) -> _R:
    """Return ``recipe`` with the fields that all of them have; nothing else may be in ``table``."""
    whole = replace(
        recipe,
        trim=table.paths("trim"),
        links=table.path_mapping("links"),
        files=table.path_mapping("files"),
        warm=_warm_up(table.table("warm")) if "warm" in table else None,
        tools=common.tools,
        programs=common.programs,
        workload=common.workload,
    )
    table.done()
    return whole


def _debian(table: _Table, common: Recipe) -> DebianRecipe:
    packages = table.texts("packages", required=True)
    for package in packages:
        # Whatever else apt would understand (options, versions, patterns) is no package name.
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package):
            raise table.wrong("packages", f"has {package!r}, which is no package name")
    recipe = DebianRecipe(
        packages=packages,
        exclude=table.texts("exclude"),
        bytecode=table.take("bytecode", bool, False),
    )
    return _with_common(recipe, table, common)


def _registry(table: _Table, common: Recipe) -> RegistryRecipe:
    recipe = RegistryRecipe(
        reference=table.text("reference", ""),
        version=table.text("version", ""),
    )
    if "{version}" in recipe.reference and not recipe.version:
        raise table.wrong("version", "is missing: the reference has a place for it")
    return _with_common(recipe, table, common)


def _toolchain(table: _Table) -> Toolchain:
    toolchain = Toolchain(table.text("text"), table.text("package", ""), table.text("variable", ""))
    if PLACE not in toolchain.text or len(toolchain.text) > 64 or not toolchain.text.isprintable():
        raise table.wrong("text", f"has to be a short line with {PLACE} in it")
    table.done()
    return toolchain


def _warm_up(table: _Table) -> WarmUp:
    warm = WarmUp(
        command=table.texts("command", required=True),
        unless=table.text("unless", ""),
        memory=table.count("memory", 256),
        slow=table.take("slow", bool, False),
    )
    table.done()
    return warm
