"""A job's names: what a language's commands have placeholders for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from slipway._model.errors import InputError
from slipway._util.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from slipway._model.input_file import InputFile
    from slipway_initramfs.languages.catalogue import Language

# Their names travel in one message, beside all that a caller may give: see slipway._model.options.
MAX_SOURCE_NAMES: Final = 8 * 1024
# Of a session, which may have runs without end.
MAX_KEPT_NAMES: Final = 4096
_PROGRAM: Final = "main"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What stands for ``{source}``, ``{program}`` and ``{sources}``; and ``files`` put beside."""

    source: str
    program: str
    sources: tuple[str, ...] = ()
    files: tuple[InputFile, ...] = field(default=(), repr=False)

    def fill(self, command: Iterable[str]) -> tuple[str, ...]:
        """``command`` with its placeholders replaced."""
        return tuple(self._fill_parts(command))

    def _fill_parts(self, command: Iterable[str]) -> Iterator[str]:
        for word in command:
            if word == "{sources}":
                yield from self.sources
            else:
                yield word.replace("{source}", self.source).replace("{program}", self.program)


def arrange(
    language: Language, source: bytes, files: tuple[InputFile, ...], taken: frozenset[str]
) -> Arrangement:
    """Choose and name the files of a job; ``taken`` are names that its directory has already."""
    # Patterns take longer to compile than a small program's names to choose: each rule's when it
    # is needed.
    names = taken | {file.path.partition("/")[0] for file in files}
    program = _program(names)
    if language.rules == "node":
        from slipway._sources import node

        name, more = node.name_source(language.source, source, files, names)
        return Arrangement(name, program, (), more)
    if language.rules == "go":
        from slipway._sources import go

        try:
            sources = go.packages(language, source, files)
        except go.Unbuildable as error:
            why = plain(str(error))[: go.MAX_REASON]
            return Arrangement(language.source, "-e", (why,))
        return Arrangement(language.source, program, sources)
    others = sorted(file.path for file in files if file.path.endswith(language.sources))
    if others and language.rules == "include":
        from slipway._sources import include

        by_path = {language.source: source, **{file.path: file.data for file in files}}
        included = include.find_included((language.source, *others), by_path)
        others = [path for path in others if path not in included]
    return Arrangement(
        language.source, program, tuple(map(_as_argument, (language.source, *others)))
    )


def keep_names(
    kept: frozenset[str], language: Language, files: tuple[InputFile, ...]
) -> frozenset[str]:
    """``kept`` with those names of ``files`` that ours in a later run could be as well."""
    ours = (_PROGRAM, language.source.rpartition(".")[0] or language.source, "package.json")
    names = {file.path.partition("/")[0] for file in files if file.path.startswith(ours)}
    return kept | names if len(kept) < MAX_KEPT_NAMES else kept


def check_source_names(language: Language, files: tuple[InputFile, ...]) -> None:
    """Check that the build can be told of all its sources.

    Raises:
        InputError: their names are too long together.
    """
    if not language.sources or not files:
        return
    import shlex

    size = sum(
        len(shlex.quote(file.path).encode("utf-8", "surrogateescape")) + 8
        for file in files
        if file.path.endswith(language.sources)
    )
    if size > MAX_SOURCE_NAMES:
        raise InputError(
            f"the names of the {' and '.join(language.sources)} files have more than "
            f"{MAX_SOURCE_NAMES} bytes together",
            "Give them shorter names, or put several sources into one.",
        )


def _program(names: Iterable[str]) -> str:
    """``main``, or what comes nearest where that is the name of a file or directory."""
    taken = frozenset(names)
    program = _PROGRAM
    number = 0
    while program in taken:
        number += 1
        program = f"{_PROGRAM}-{number}"
    return program


def _as_argument(path: str) -> str:
    """``path`` so that no compiler takes it for an option or a list of them."""
    return f"./{path}" if path.startswith(("-", "@")) else path
