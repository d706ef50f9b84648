"""Arrangement of a job: the values of the placeholders in a language's commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from slipway._util.errors import InputError
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from slipway._model.input_file import InputFile
    from slipway_initramfs.languages.language import Language

# Bytes. The names travel in one message, with all other fields of a job.
MAX_SOURCE_NAMES: Final = 8 * 1024
# Number of names that a session remembers; its runs are not limited in number.
MAX_KEPT_NAMES: Final = 4096
_PROGRAM: Final = "main"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Values of ``{source}``, ``{program}`` and ``{sources}``, and ``files`` to add to the job."""

    source: str
    program: str
    sources: tuple[str, ...] = ()
    files: tuple[InputFile, ...] = field(default=(), repr=False)

    def fill(self, command: Iterable[str]) -> tuple[str, ...]:
        """Return ``command`` with its placeholders replaced."""
        return tuple(self._fill_parts(command))

    def _fill_parts(self, command: Iterable[str]) -> Iterator[str]:
        for word in command:
            if word == "{sources}":
                yield from self.sources
            else:
                yield word.replace("{source}", self.source).replace("{program}", self.program)


def arrange(
    language: Language,
    source: bytes,
    files: tuple[InputFile, ...],
    taken: frozenset[str],
    architecture: str,
) -> Arrangement:
    """Choose and name the files of a job; ``taken`` are names that its directory has already.

    ``architecture`` is that of the machine, as Debian calls it.
    """
    # The patterns of a rule take longer to compile than the names of a small program take to
    # choose: each rule is imported when needed.
    names = taken | {file.path.partition("/")[0] for file in files}
    program = _choose_program(names)
    if language.rules == "node":
        from slipway._sources import node

        name, more = node.name_source(language.source, source, files, names)
        return Arrangement(name, program, (), more)
    if language.rules == "go":
        from slipway._sources import go

        try:
            sources = go.describe_packages(language, source, files, architecture)
        except go.Unbuildable as error:
            why = to_plain_line(str(error))[: go.MAX_REASON]
            return Arrangement(language.source, "-e", (why,))
        return Arrangement(language.source, program, sources)
    others = sorted(file.path for file in files if file.path.endswith(language.sources))
    if others and language.rules == "include":
        from slipway._sources import include

        by_path = {language.source: source, **{file.path: file.data for file in files}}
        included = include.find_included((language.source, *others), by_path)
        others = [path for path in others if path not in included]
    return Arrangement(
        language.source, program, tuple(map(_protect_path, (language.source, *others)))
    )


def keep_names(
    kept: frozenset[str], language: Language, files: tuple[InputFile, ...]
) -> frozenset[str]:
    """Add to ``kept`` the names of ``files`` that could collide with our names in a later run."""
    ours = (_PROGRAM, language.source.rpartition(".")[0] or language.source, "package.json")
    names = {file.path.partition("/")[0] for file in files if file.path.startswith(ours)}
    return kept | names if len(kept) < MAX_KEPT_NAMES else kept


def check_source_names(language: Language, files: tuple[InputFile, ...]) -> None:
    """Check that the names of all sources fit into the command of the build.

    Raises:
        InputError: together the names are too long.
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


def _choose_program(names: Iterable[str]) -> str:
    """Return ``main``, or ``main-1`` and so on if a file or directory has that name."""
    taken = frozenset(names)
    program = _PROGRAM
    number = 0
    while program in taken:
        number += 1
        program = f"{_PROGRAM}-{number}"
    return program


def _protect_path(path: str) -> str:
    """Return ``path`` in a form that compilers do not take for an option or an option file."""
    return f"./{path}" if path.startswith(("-", "@")) else path
