"""Packages of a Go program, as ``go build`` finds them, for a build by compiler and linker alone.

On an emulated machine the go command would need a second or more for this work. Unlike that
command, this module does not download modules and does not support cgo.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from slipway._sources.go_text import Head, read_head
from slipway._sources.words import split_words
from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._model.input_file import InputFile
    from slipway_initramfs.languages.language import Language

MAX_REASON: Final = 1000
# Bytes of all arguments of the build: they travel in one message with the caller's arguments.
MAX_ARGUMENT_BYTES: Final = 12 * 1024
MAX_EMBEDDED: Final = 2048
MAX_PATTERNS: Final = 64
# Bytes of all heads together: files of callers are read while other runs wait.
MAX_READ_TOGETHER: Final = MIB
# Those of go/build; a file's name may end with a system, an architecture, or both.
SYSTEMS: Final = split_words(
    "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 "
    "solaris wasip1 windows zos"
)
ARCHITECTURES: Final = split_words(
    "386 amd64 amd64p32 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le mips64p32 "
    "mips64p32le ppc ppc64 ppc64le riscv riscv64 s390 s390x sparc sparc64 wasm"
)
# Minor version of Debian's package, for languages that do not say theirs.
_MINOR: Final = 19
_MODULE = re.compile(r'^module[ \t]+"?([^\s"]+)', re.MULTILINE)
_GO = re.compile(r"^go[ \t]+1\.(\d{1,3})\b", re.MULTILINE)
_IMPORT_PATH = re.compile(r"[A-Za-z0-9._~+-]+(?:/[A-Za-z0-9._~+-]+)*")
_WITHOUT_CGO: Final = {
    "C": "cgo needs a C compiler, which this image does not have",
    "plugin": "plugins need cgo, and thus a C compiler, which this image does not have",
}


class Unbuildable(Exception):  # reported like an error of the compiler
    """Error for packages that cannot be built; its text is worded like an error of go."""


@dataclass(slots=True)
class Package:
    """Sources in one directory, by their paths."""

    directory: str
    heads: dict[str, Head] = field(default_factory=dict)

    def list_imports(self) -> Iterator[tuple[str, str]]:
        """Return pairs of a source and an import path in it."""
        for path, head in self.heads.items():
            for target in head.imports:
                yield path, target


def describe_packages(
    language: Language, source: bytes, files: tuple[InputFile, ...], architecture: str
) -> tuple[str, ...]:
    """Return the packages of the program as arguments of build-go, dependencies first.

    ``architecture`` is that of the machine; Debian and Go have the same names.

    Raises:
        Unbuildable: the packages cannot be built, and the compiler would not give the reason.
    """
    job = _Program(language, source, files, architecture)
    arguments = tuple(job.describe_package(path, package) for path, package in job.sort_packages())
    size = sum(len(argument.encode("utf-8", "surrogateescape")) for argument in arguments)
    if len(arguments) > 1 and size > MAX_ARGUMENT_BYTES:
        raise Unbuildable("the program has too many packages and sources: their names are too long")
    return arguments


def fits_name(name: str, architecture: str) -> bool:
    """Tell if the name of a file is that of a source for Linux on ``architecture``."""
    parts = name.partition(".")[0].split("_")[1:]
    system, machine = ([""] * 2 + parts)[-2:]
    if machine in ARCHITECTURES:
        return machine == architecture and (system not in SYSTEMS or system == "linux")
    return machine not in SYSTEMS or machine == "linux"


class _Program:
    """Files of a job, sorted into packages."""

    def __init__(
        self, language: Language, source: bytes, files: tuple[InputFile, ...], architecture: str
    ) -> None:
        self._paths = [file.path for file in files]
        self._minor = _find_minor(language)
        tags = frozenset({"linux", "unix", "gc", architecture}) | {
            f"go1.{minor}" for minor in range(1, self._minor + 1)
        }
        self._left = MAX_READ_TOGETHER
        self._patterns = 0
        self._main = Package("", {language.source: self._read_head(source)})
        self._packages = {"": self._main}
        module_file = ""
        for file in sorted(files, key=lambda file: file.path):
            if file.path == "go.mod":
                module_file = file.data[:65536].decode("utf-8", "replace")
            directory, name = posixpath.split(file.path)
            ignored = any(part.startswith(("_", ".")) for part in file.path.split("/"))
            if ignored or not name.endswith(".go") or name.endswith("_test.go"):
                continue
            if fits_name(name, architecture):
                head = self._read_head(file.data)
                if head.holds(tags):
                    package = self._packages.setdefault(directory, Package(directory))
                    package.heads[file.path] = head
        named = _MODULE.search(module_file)
        self._module = named[1] if named else ""
        wanted = _GO.search(module_file)
        self._language_minor = int(wanted[1]) if wanted else 0

    def sort_packages(self) -> list[tuple[str, Package]]:
        """Return the packages with their import paths, in the order in which they are compiled.

        Raises:
            Unbuildable: packages import each other in a circle, or an import is impossible.
        """
        done: dict[str, Package] = {}
        waiting = [("main", self._main, self._list_needs(self._main))]
        begun = {"main"}
        while waiting:
            name, package, needs = waiting[-1]
            following = next(needs, None)
            if following is None:
                done[name] = package
                waiting.pop()
            elif following[0] not in begun:
                begun.add(following[0])
                waiting.append((*following, self._list_needs(following[1])))
            elif following[0] not in done:
                path = [each for each, _, _ in waiting]
                circle = " imports ".join([*path[path.index(following[0]) :], following[0]])
                raise Unbuildable(f"import cycle not allowed: {circle}")
        return list(done.items())

    def _read_head(self, data: bytes) -> Head:
        head = read_head(data)
        self._left -= head.size
        if self._left < 0:
            raise Unbuildable("the sources have too much text before and among their imports")
        return head

    def describe_package(self, name: str, package: Package) -> str:
        """Return one package as an argument of build-go."""
        flags = []
        # A newer version than the compiler's is not passed on, as in the go command.
        if 0 < self._language_minor <= self._minor:
            flags = [f"-lang=go1.{self._language_minor}"]
        sources = [f"./{path}" for path in package.heads]
        return shlex.join([name, self._make_embed_table(package), *flags, *sources])

    def _list_needs(self, package: Package) -> Iterator[tuple[str, Package]]:
        """Return the packages of the job that ``package`` imports."""
        for source, target in package.list_imports():
            found = self._find_package(source, target)
            if found is not None:
                yield target, found

    def _find_package(self, source: str, target: str) -> Package | None:
        """Return the package that ``source`` imports, or None for the standard library's."""
        if target in _WITHOUT_CGO:
            raise Unbuildable(f"{source}: cannot import {target!r}: {_WITHOUT_CGO[target]}")
        if target.startswith((".", "/")):
            raise Unbuildable(
                f"{source}: cannot import {target!r}: import packages by the path of the module, "
                f"which go.mod names"
            )
        directory = self._find_directory(target)
        if directory is not None and _IMPORT_PATH.fullmatch(target) and ".." not in target:
            package = self._packages.get(directory)
            if package is not None and directory:
                return package
            raise Unbuildable(
                f"{source}: cannot import {target!r}: it is the main package"
                if not directory
                else f"{source}: cannot import {target!r}: no Go files for this system in "
                f"{directory}/ among those that were sent"
            )
        if "." in target.partition("/")[0]:
            raise Unbuildable(
                f"{source}: cannot import {target!r}: modules are not downloaded here; send its "
                f"sources as vendor/{target}/*.go"
            )
        if target in self._packages:
            raise Unbuildable(
                f"{source}: cannot import {target!r}: to import packages from directories, send a "
                f"go.mod with 'module example', and import 'example/{target}'"
            )
        return None

    def _find_directory(self, target: str) -> str | None:
        """Return the directory of an import path, or None if the package is not part of the job."""
        if self._module and target == self._module:
            return ""
        if self._module and target.startswith(f"{self._module}/"):
            return target.removeprefix(f"{self._module}/")
        vendored = f"vendor/{target}"
        return vendored if vendored in self._packages else None

    def _make_embed_table(self, package: Package) -> str:
        """Return the compiler's table of embedded files as JSON, or ""."""
        patterns = {pattern for head in package.heads.values() for pattern in head.embedded}
        if not patterns:
            return ""
        self._patterns += len(patterns)
        if self._patterns > MAX_PATTERNS:
            raise Unbuildable(f"//go:embed: more than {MAX_PATTERNS} patterns")
        # Everything goes into the table: after the limit, files are not even looked for.
        size = sum(map(len, patterns))
        found: dict[str, list[str]] = {}
        for pattern in sorted(patterns):
            if size > MAX_EMBEDDED:
                break
            found[pattern] = self._find_embedded(package.directory, pattern)
            size += sum(map(len, found[pattern]))
        names = {name for matching in found.values() for name in matching}
        table = {
            "Patterns": found,
            "Files": {name: posixpath.join(package.directory, name) for name in sorted(names)},
        }
        text = json.dumps(table, separators=(",", ":"))
        if max(size, len(text)) > MAX_EMBEDDED:
            raise Unbuildable("//go:embed: too many files are embedded; pack them into one")
        return text

    def _find_embedded(self, directory: str, pattern: str) -> list[str]:
        """Return the files that match ``pattern``, relative to ``directory``."""
        hidden = pattern.startswith("all:")
        wanted = pattern.removeprefix("all:").rstrip("/").replace("[^", "[!").split("/")
        prefix = f"{directory}/" if directory else ""
        found = []
        for path in self._paths:
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            inside, rest = parts[: len(wanted)], parts[len(wanted) :]
            if wanted != ["."] and not _matches(inside, wanted):
                continue
            rest = parts if wanted == ["."] else rest
            if hidden or not any(part.startswith((".", "_")) for part in rest):
                found.append("/".join(parts))
        if not found:
            raise Unbuildable(f"//go:embed {pattern}: no matching files found among those sent")
        return sorted(found)


def _matches(parts: list[str], patterns: list[str]) -> bool:
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _find_minor(language: Language) -> int:
    """Return N of the compiler's version 1.N; without information, that of Debian."""
    for version in (language.environment.get("GOLANG_VERSION", ""), language.version):
        if found := re.match(r"1\.(\d{1,3})", version):
            return int(found[1])
    return _MINOR
