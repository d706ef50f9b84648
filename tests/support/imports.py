"""The imports of this project's modules, as their sources state them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "slipway_protocol": ROOT / "protocol",
    "slipway_agent": ROOT / "agent",
    "slipway_initramfs": ROOT / "initramfs",
    "slipway": ROOT / "host",
}

# A module may import its own room, and rooms before it that are not of its own group.
ORDER = (
    ("_util",),
    ("_model",),
    ("jail",),
    ("vmm", "_wire", "_sources", "_admission"),
    ("machine", "_remote"),
    ("_run",),
    ("_snapshots",),
    ("_local",),
    ("_server", "_blocking", "_mcp"),
    ("_cli",),
)
# The public namespace and ``python -m slipway``, which stand above all rooms.
ABOVE = {"slipway", "slipway.__main__"}

Imports = dict[str, frozenset[str]]


@cache
def read_imports() -> Imports:
    """Return for each module the modules of this project that it imports anywhere.

    Imports inside functions and those for the type checker only count as well.
    """
    sources = _parse_modules()
    return {
        module: frozenset(_find_imported(tree, sources)) - {module}
        for module, tree in sources.items()
    }


def find_relative_imports() -> Iterator[str]:
    """Yield each relative import, which :func:`read_imports` does not see."""
    for module, tree in _parse_modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                yield f"{module}:{node.lineno}: {ast.unparse(node)}"


def find_circles(imports: Imports) -> list[tuple[str, ...]]:
    """Return the sets of modules that import each other, each sorted (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    circles: list[tuple[str, ...]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        path.append(module)
        for other in imports[module]:
            if other not in index:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], index[other])
        if lowest[module] == index[module]:
            at = path.index(module)
            if len(path) - at > 1:
                circles.append(tuple(sorted(path[at:])))
            del path[at:]

    for module in sorted(imports):
        if module not in index:
            visit(module)
    return sorted(circles)


def room_of(module: str) -> str:
    """Return the room of a module of host/slipway: the first part below the package."""
    return module.split(".")[1] if "." in module else ""


def find_floors() -> list[tuple[str, ...]]:
    """Return the rooms of the host by floor, the ground first.

    A room stands one floor above the highest room that it imports. docs/architecture.md draws them.
    """
    arrows = {(room_of(module), room_of(other)) for module, other in find_imports_between_rooms()}
    floor_of: dict[str, int] = {}
    for room in (room for group in ORDER for room in group):
        floor_of[room] = max((floor_of[b] + 1 for a, b in arrows if a == room), default=0)
    count = max(floor_of.values()) + 1
    return [tuple(r for r in floor_of if floor_of[r] == number) for number in range(count)]


def find_imports_between_rooms() -> Iterator[tuple[str, str]]:
    """Yield each import of a module of another room of the host."""
    for module, imported in read_imports().items():
        for other in imported:
            if all(
                name.partition(".")[0] == "slipway" and name not in ABOVE
                for name in (module, other)
            ) and room_of(module) != room_of(other):
                yield module, other


@cache
def _parse_modules() -> dict[str, ast.Module]:
    return {
        module: ast.parse(file.read_text("utf-8"))
        for package, root in PACKAGES.items()
        for module, file in _modules(package, root)
    }


def _modules(package: str, root: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted((root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def _find_imported(tree: ast.AST, known: dict[str, ast.Module]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                full = f"{node.module}.{name.name}"
                if full in known:
                    yield full
                elif node.module in known:
                    yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
