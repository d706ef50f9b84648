"""Language file: a strictly parsed TOML table.

Unknown keys and values of the wrong kind are errors that name file and key.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from slipway_initramfs.errors import InvalidLanguage
from slipway_initramfs.languages.language import RULES, Language, Limits, Phase
from slipway_initramfs.languages.recipes import DebianRecipe, Recipe, RegistryRecipe, Warmup
from slipway_initramfs.languages.toolchain import PLACE, Toolchain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_T = TypeVar("_T")
_R = TypeVar("_R", bound=Recipe)
_MAX_FILE = 1 << 20
_SUFFIX = "{suffix}"
# Limit on the words of ``out_of_memory``, and on the letters of each word.
_MAX_WORDS = 64
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789+#-.")
BUILD_LIMITS = Limits(120, 120, 0, 1024, 0, 65536, 1)
# Defaults of a language file's limits.
RUN_LIMITS = Limits(30, 30, 0, 1024, 0, 65536, 16)


def read_file(path: Path) -> bytes:
    """Return the bytes of a language file.

    Raises:
        InvalidLanguage: the file cannot be read, or is too long.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise InvalidLanguage(f"cannot read the language file {path}: {error.strerror}") from error
    if len(data) > _MAX_FILE:
        raise InvalidLanguage(f"the language file {path} is longer than 1 MiB")
    return data


def parse_language(data: bytes, name: str) -> Language:
    """Return the language that ``data`` describes; ``name`` is the file's name in messages.

    Raises:
        InvalidLanguage: a key is unknown, missing or invalid.
    """
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidLanguage(f"the language file {name} is not valid TOML: {error}") from error
    return _read_language(_Table(name, "", values))


def is_language_name(text: str) -> bool:
    """Check whether ``text`` can be the name of a language."""
    return 0 < len(text) <= 64 and _NAME.issuperset(text) and text[0] not in ".-"


class _Table:
    """Table of the file. Each key is taken once; ``check_empty`` refuses unused keys."""

    def __init__(self, file: str, prefix: str, values: dict[str, Any]) -> None:
        self._file = file
        self._prefix = prefix
        self._values = dict(values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def make_error(self, key: str, what: str) -> InvalidLanguage:
        return InvalidLanguage(
            f"{self._file}: {self._prefix}{key} {what}", "See docs/adding-a-language.md"
        )

    def take(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        value = self._values.pop(key, default)
        if value is None:
            raise self.make_error(key, "is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.make_error(key, f"must be of the type {kind.__name__}")
        return value

    def take_text(self, key: str, default: str | None = None) -> str:
        value = self.take(key, str, default)
        if "\0" in value:
            raise self.make_error(key, "contains a NUL")
        return value

    def take_texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        values = self.take(key, list, None if required else [])
        if not all(isinstance(value, str) and value and "\0" not in value for value in values):
            raise self.make_error(key, "must be a list of non-empty strings")
        if required and not values:
            raise self.make_error(key, "is empty")
        return tuple(values)

    def take_words(self, key: str) -> tuple[str, ...]:
        words = self.take_texts(key)
        if len(words) > _MAX_WORDS or any(len(word) > _MAX_WORDS for word in words):
            raise self.make_error(
                key, f"must be at most {_MAX_WORDS} strings of {_MAX_WORDS} letters"
            )
        return words

    def take_mapping(self, key: str) -> Mapping[str, str]:
        values = self.take(key, dict, {})
        for name, value in values.items():
            if not isinstance(value, str) or "\0" in value or "\0" in name or not name:
                raise self.make_error(f"{key}.{name}", "must be a string")
        return MappingProxyType(values)

    def take_paths(self, key: str) -> tuple[str, ...]:
        return tuple(self._check_below_root(key, path) for path in self.take_texts(key))

    def take_path_mapping(self, key: str) -> Mapping[str, str]:
        values = self.take_mapping(key)
        for path in values:
            self._check_below_root(key, path)
        return values

    def _check_below_root(self, key: str, path: str) -> str:
        if path.startswith("/") or ".." in path.split("/"):
            raise self.make_error(key, f"must be relative to the root: {path!r}")
        return path

    def take_seconds(self, key: str, default: float) -> float:
        value = self._values.pop(key, default)
        if type(value) not in (int, float) or not 0 < value <= 86400:
            raise self.make_error(key, "must be a number of seconds between 0 and 86400")
        return float(value)

    def take_count(self, key: str, default: int, *, least: int = 1) -> int:
        value = self._values.pop(key, default)
        if type(value) is not int or not least <= value <= 1 << 20:
            raise self.make_error(key, f"must be an integer between {least} and {1 << 20}")
        return value

    def take_table(self, key: str) -> _Table:
        return _Table(self._file, f"{self._prefix}{key}.", self.take(key, dict, {}))

    def check_empty(self) -> None:
        for key in self._values:
            raise self.make_error(key, "is unknown")


def _read_language(table: _Table) -> Language:
    name = table.take_text("name")
    if not is_language_name(name):
        raise table.make_error("name", "must be small letters, digits, '+', '#', '-' and '.'")
    suffixes = table.take_texts("suffixes", required=True)
    sources = table.take_texts("sources")
    for key, given in (("suffixes", suffixes), ("sources", sources)):
        if not all(suffix.startswith(".") and len(suffix) > 1 for suffix in given):
            raise table.make_error(key, "must begin with a dot")
    source = table.take_text("source")
    keeps_suffix = source.endswith(_SUFFIX)
    if keeps_suffix:
        source = source.removesuffix(_SUFFIX) + suffixes[0]
    if not source or "/" in source or source in (".", ".."):
        raise table.make_error("source", "must be a file name")
    rules = table.take_text("rules", "")
    if rules and rules not in RULES:
        raise table.make_error("rules", f"must be one of {', '.join(RULES)}")
    aliases = table.take_texts("aliases")
    if any(not is_language_name(alias) for alias in aliases):
        raise table.make_error("aliases", "must follow the rules for names")
    environment = table.take_mapping("environment")
    if any("=" in variable for variable in environment):
        raise table.make_error("environment", "contains a name with '='")
    build = _read_phase(table.take_table("build"), BUILD_LIMITS) if "build" in table else None
    run = _read_run(table.take_table("run"), source, built=build is not None)
    image = table.take_table("image")
    common = Recipe(
        workload=image.take_count("workload", 64),
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
        debian=_read_debian_recipe(image.take_table("debian"), common)
        if "debian" in image
        else None,
        registry=_read_registry_recipe(image.take_table("registry"), common),
        sample=table.take_text("sample", ""),
        toolchain=_read_toolchain(image.take_table("toolchain"))
        if "toolchain" in image
        else Toolchain(),
        keeps_suffix=keeps_suffix,
        sources=sources,
        rules=rules,
    )
    image.check_empty()
    table.check_empty()
    return language


def _read_run(table: _Table, source: str, *, built: bool) -> Phase:
    prestart = table.take("prestart", bool, False)
    if prestart and built:
        raise table.make_error("prestart", "is for programs that need no build")
    unless = table.take_texts("prestart_unless")
    if unless and not prestart:
        raise table.make_error("prestart_unless", "is for a program with 'prestart'")
    if any("/" in name or name in {"", ".", ".."} for name in unless):
        raise table.make_error("prestart_unless", "has to hold file names")
    phase = replace(_read_phase(table, RUN_LIMITS), prestart=prestart, prestart_unless=unless)
    if prestart and not {source, "{source}"} & set(phase.command):
        raise table.make_error(
            "prestart", f"needs a command with the source {source!r} as an argument"
        )
    return phase


def _read_phase(table: _Table, default: Limits) -> Phase:
    command = table.take_texts("command", required=True)
    limits = table.take_table("limits")
    phase = Phase(
        command,
        Limits(
            wall=limits.take_seconds("wall", default.wall),
            cpu=limits.take_seconds("cpu", default.cpu),
            memory=limits.take_count("memory", default.memory, least=0),
            processes=limits.take_count("processes", default.processes),
            file_size=limits.take_count("file_size", default.file_size, least=0),
            open_files=limits.take_count("open_files", default.open_files),
            output=limits.take_count("output", default.output),
        ),
        out_of_memory=table.take_words("out_of_memory"),
    )
    limits.check_empty()
    table.check_empty()
    return phase


def _add_common_fields(recipe: _R, table: _Table, common: Recipe) -> _R:
    """Return ``recipe`` with the fields of all recipes; refuse other keys in ``table``."""
    whole = replace(
        recipe,
        trim=table.take_paths("trim"),
        links=table.take_path_mapping("links"),
        files=table.take_path_mapping("files"),
        warm=_read_warmup(table.take_table("warm")) if "warm" in table else None,
        tools=common.tools,
        programs=common.programs,
        workload=common.workload,
    )
    table.check_empty()
    return whole


def _read_debian_recipe(table: _Table, common: Recipe) -> DebianRecipe:
    packages = table.take_texts("packages", required=True)
    for package in packages:
        # Options, versions and patterns, which apt would accept, are refused.
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package):
            raise table.make_error("packages", f"contains the invalid package name {package!r}")
    recipe = DebianRecipe(
        packages=packages,
        exclude=table.take_texts("exclude"),
        bytecode=table.take("bytecode", bool, False),
    )
    return _add_common_fields(recipe, table, common)


def _read_registry_recipe(table: _Table, common: Recipe) -> RegistryRecipe:
    recipe = RegistryRecipe(
        reference=table.take_text("reference", ""),
        version=table.take_text("version", ""),
    )
    if "{version}" in recipe.reference and not recipe.version:
        raise table.make_error("version", "is missing: the reference contains {version}")
    return _add_common_fields(recipe, table, common)


def _read_toolchain(table: _Table) -> Toolchain:
    toolchain = Toolchain(
        table.take_text("text"), table.take_text("package", ""), table.take_text("variable", "")
    )
    if PLACE not in toolchain.text or len(toolchain.text) > 64 or not toolchain.text.isprintable():
        raise table.make_error("text", f"must be a short line that contains {PLACE}")
    table.check_empty()
    return toolchain


def _read_warmup(table: _Table) -> Warmup:
    warm = Warmup(
        command=table.take_texts("command", required=True),
        unless=table.take_text("unless", ""),
        memory=table.take_count("memory", 256),
        slow=table.take("slow", bool, False),
    )
    table.check_empty()
    return warm
