"""Measures of names and docstrings, by which tests keep the house style (docs/style.md).

``python tests/support/prose.py [--worst N]`` prints the measures of each package and room.
"""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "host": ROOT / "host/slipway",
    "initramfs": ROOT / "initramfs/slipway_initramfs",
    "agent": ROOT / "agent/slipway_agent",
    "protocol": ROOT / "protocol/slipway_protocol",
}


# Measured and named by the same rules; their docstrings have ceilings of their own.
TOOLS = {"support": ROOT / "tests/support", "bench": ROOT / "bench"}


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Programs of guests, some of them wrong on purpose, and packages for TypeScript.
_NOT_OURS = {"programs", "node_modules"}
WEAK_WORDS = _words("what who whoever whose it its one none so there")
WEAK_OPENINGS = _words("what who whoever whose whether it one none so")

# Code is no prose: literals, roles with their targets, and indented blocks behind "::".
_CODE = re.compile(r"``.*?``|`[^`]*`_?|:[a-z]+:`[^`]*`", re.S)
_FENCED = re.compile(r"^ *```.*?^ *```", re.S | re.M)
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
# "Raises OSError" or "raises as :meth:`start`" within a sentence.
_INLINE_RAISES = re.compile(r"\b[Rr]aises +(?:[`:A-Z]|as\b|the errors?\b)")
# Past participles that do not end in -ed, as far as the code has or had them as names.
_IRREGULAR = _words(
    "begun broken brought built caught chosen done drawn fallen felt forgotten found given gone "
    "grown heard held kept known laid left lost made meant met paid said seen sent shown spent "
    "struck stuck swept taken thought told understood woken won written"
)
# Verbs and nouns that only look like participles.
_NO_PARTICIPLES = _words("embed exceed feed need proceed seed shed speed")


@dataclass(frozen=True, slots=True)
class Docstring:
    """Docstring of a module, class or function, and its place."""

    path: Path
    line: int
    name: str
    is_function: bool
    text: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.name}"

    @property
    def words(self) -> list[str]:
        return [word.lower() for word in _WORD.findall(prose_of(self.text))]

    @property
    def weak(self) -> int:
        return sum(word.removesuffix("'s") in WEAK_WORDS for word in self.words)


@dataclass(frozen=True, slots=True)
class Measure:
    """Number of words, and of weak words among them."""

    words: int
    weak: int

    @property
    def per_hundred(self) -> float:
        return 100 * self.weak / self.words if self.words else 0.0


def prose_of(docstring: str) -> str:
    """Return a docstring without its code."""
    kept: list[str] = []
    block_indent: int | None = None  # of the line that ended with "::"
    for line in docstring.splitlines():
        indent = len(line) - len(line.lstrip())
        if block_indent is not None:
            if not line.strip() or indent > block_indent:
                continue
            block_indent = None
        if line.rstrip().endswith("::"):
            block_indent = indent
        if not line.lstrip().startswith(">>>"):
            kept.append(line)
    return _CODE.sub(" ", "\n".join(kept))


def measure_page(text: str) -> Measure:
    """Count words and weak words of a Markdown page, without its code."""
    prose = _CODE.sub(" ", _FENCED.sub(" ", text))
    words = [word.lower().removesuffix("'s") for word in _WORD.findall(prose)]
    return Measure(len(words), sum(word in WEAK_WORDS for word in words))


def parse_sources(directory: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Parse all modules below ``directory``, in the order of their paths."""
    for path in sorted(directory.rglob("*.py")):
        if not _NOT_OURS & set(path.relative_to(directory).parts):
            yield path, ast.parse(path.read_text())


def find_docstrings(directory: Path) -> Iterator[Docstring]:
    """Find the docstrings of all modules, classes and functions below ``directory``."""
    for path, module in parse_sources(directory):
        for node in ast.walk(module):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    line = 1 if isinstance(node, ast.Module) else node.lineno
                    name = path.stem if isinstance(node, ast.Module) else node.name
                    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                    yield Docstring(path, line, name, is_function, text)


def measure(docstrings: list[Docstring]) -> Measure:
    """Count words and weak words of ``docstrings``."""
    return Measure(sum(len(d.words) for d in docstrings), sum(d.weak for d in docstrings))


def find_inline_raises(docstrings: list[Docstring]) -> list[Docstring]:
    """Find functions whose docstring names an exception outside of its section ``Raises:``."""
    return [
        docstring
        for docstring in docstrings
        if docstring.is_function and _INLINE_RAISES.search(docstring.text)
    ]


def find_weak_openings(docstrings: list[Docstring]) -> list[Docstring]:
    """Find modules and classes whose summary begins with a weak word."""
    return [
        docstring
        for docstring in docstrings
        if not docstring.is_function
        and docstring.words[:1]
        and docstring.words[0].removesuffix("'s") in WEAK_OPENINGS
    ]


def find_classes(directory: Path) -> dict[str, list[str]]:
    """Find the class names at the top level of modules, and the modules of each.

    Private classes count as well, without their underscore. Of several classes of one name in one
    module (``if``-branches) the module is listed once.
    """
    homes: dict[str, list[str]] = {}
    for path, module in parse_sources(directory):
        names = {node.name.lstrip("_") for node in module.body if isinstance(node, ast.ClassDef)}
        for name in names:
            homes.setdefault(name, []).append(str(path.relative_to(directory)))
    return homes


def is_participle(name: str) -> bool:
    """Tell if a function's name is one word, and that word a participle."""
    word = name.strip("_")
    return (
        "_" not in word
        and word not in _NO_PARTICIPLES
        and (word in _IRREGULAR or re.fullmatch(r"[a-z]+ed", word) is not None)
    )


def find_participles(directory: Path) -> list[str]:
    """Find functions and methods, but no properties, that are named by a bare participle."""
    found: list[str] = []
    for path, module in parse_sources(directory):
        for node in ast.walk(module):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and is_participle(node.name)
                and not any("property" in ast.unparse(mark) for mark in node.decorator_list)
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    return found


def _rooms(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.iterdir()) if (path / "__init__.py").is_file())


def main() -> None:
    """Print the measures of all packages, of the rooms of host/slipway, and of all pages."""
    parser = argparse.ArgumentParser(description="Measure names and docstrings.")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="list the N worst modules"
    )
    worst = parser.parse_args().worst
    print(f"{'':44}{'words':>7} {'weak/100':>8} {'openings':>8} {'participles':>11}")
    for name, directory in PACKAGES.items():
        for part in [directory, *(_rooms(directory) if name == "host" else ())]:
            docstrings = list(find_docstrings(part))
            counted = measure(docstrings)
            print(
                f"{part.relative_to(ROOT)!s:44}{counted.words:7} {counted.per_hundred:8.1f}"
                f" {len(find_weak_openings(docstrings)):8} {len(find_participles(part)):11}"
            )
        shared = [word for word, homes in find_classes(directory).items() if len(homes) > 1]
        print(f"{'':4}class names defined more than once: {len(shared)}")
        by_module: dict[Path, list[Docstring]] = {}
        for docstring in find_docstrings(directory):
            by_module.setdefault(docstring.path, []).append(docstring)
        ranked = sorted(by_module.items(), key=lambda item: -measure(item[1]).weak)
        for path, docstrings in ranked[:worst]:
            counted = measure(docstrings)
            print(f"{'':4}{path.relative_to(ROOT)!s:60}{counted.weak:4} {counted.per_hundred:5.1f}")
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]):
        counted = measure_page(page.read_text())
        print(f"{page.relative_to(ROOT)!s:44}{counted.words:7} {counted.per_hundred:8.1f}")


if __name__ == "__main__":
    main()
