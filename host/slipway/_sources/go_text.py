"""Head of a Go source: imports, embedded files, and build constraints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Bytes of each file. Imports precede all other code, and reading stops after them.
MAX_READ: Final = 256 * 1024
MAX_NESTED: Final = 100
_PIECE = re.compile(
    r"""
    [ \t\r\n;]+
    | //(?P<comment>[^\n]*)
    | /\*.*?(?:\*/|\Z)
    | "(?P<string>[^"\\\n]*)"
    | `(?P<raw>[^`]*)`
    | (?P<word>\w+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CONSTRAINT_PIECE = re.compile(r"&&|\|\||[!()]|[\w.]+")
_EMBED = re.compile(r"^//go:embed[ \t]+(.*)$", re.MULTILINE)
_PATTERN = re.compile(r'"([^"]*)"|`([^`]*)`|(\S+)')


@dataclass(frozen=True, slots=True)
class Head:
    """Head of a source file; ``size`` is the number of characters that were read.

    ``holds`` tells if the file is for a system with given tags.
    """

    imports: tuple[str, ...]
    holds: Callable[[frozenset[str]], bool]
    embedded: tuple[str, ...]
    size: int


def read_head(data: bytes) -> Head:
    """Read the head as far as the text is Go; the compiler reports errors."""
    text = data[:MAX_READ].decode("utf-8", "replace")
    imports: list[str] = []
    comments: list[str] = []
    expected = "package"
    size = 0
    for match in _PIECE.finditer(text):
        size = match.end()
        kind = match.lastgroup
        if kind is None:
            continue
        value = match[kind]
        if kind == "comment":
            comments += [value] if expected == "package" else ()
        elif expected in {"package", "name"}:
            if expected == "package" and value != "package":
                break
            expected = "name" if expected == "package" else "import"
        elif kind in {"string", "raw"} and expected != "import":
            imports.append(value)
            expected = expected if expected == "more" else "import"
        elif expected == "import":
            if value != "import":
                break
            expected = "one"
        elif value == "(":
            expected = "more"
        elif value == ")":
            expected = "import"
        # Otherwise: the local name of an import, a word or a dot.
    embedded: tuple[str, ...] = ()
    if "embed" in imports:
        embedded, size = _find_patterns(text), len(text)
    return Head(tuple(dict.fromkeys(imports)), _parse_constraint(comments), embedded, size)


def _find_patterns(text: str) -> tuple[str, ...]:
    lines = _EMBED.findall(text)
    return tuple("".join(found) for line in lines for found in _PATTERN.findall(line))


def _parse_constraint(comments: list[str]) -> Callable[[frozenset[str]], bool]:
    """Parse the comments above the package clause; the newer form (go:build) takes precedence."""
    for comment in comments:
        if comment.startswith("go:build "):
            return lambda tags: evaluate(comment.removeprefix("go:build "), tags)
    lines = [c.split()[1:] for c in comments if c.split()[:1] == ["+build"]]

    def holds(tags: frozenset[str]) -> bool:
        return all(
            any(
                all(
                    (term.lstrip("!") in tags) != term.startswith("!") for term in option.split(",")
                )
                for option in line
            )
            for line in lines
        )

    return holds


def evaluate(expression: str, tags: frozenset[str]) -> bool:
    """Tell if ``expression`` holds for ``tags``; an invalid expression does not."""
    pieces = _CONSTRAINT_PIECE.findall(expression.partition("//")[0])
    position = 0

    def peek() -> str:
        return pieces[position] if position < len(pieces) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return pieces[position - 1] if position <= len(pieces) else ""

    def parse_either(depth: int) -> bool:
        value = parse_both(depth)
        while peek() == "||":
            take()
            value = parse_both(depth) or value
        return value

    def parse_both(depth: int) -> bool:
        value = parse_term(depth)
        while peek() == "&&":
            take()
            value = parse_term(depth) and value
        return value

    def parse_term(depth: int) -> bool:
        if depth > MAX_NESTED:
            raise ValueError
        piece = take()
        if piece == "!":
            return not parse_term(depth + 1)
        if piece != "(":
            return piece in tags
        value = parse_either(depth + 1)
        take()
        return value

    try:
        return parse_either(0)
    except ValueError:
        return False
