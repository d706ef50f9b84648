"""Programs that a language's commands begin with, which an image must have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway_initramfs.errors import BuildFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway_initramfs.rootfs.tree import Tree


def check_programs(tree: Tree, programs: Sequence[str], path: str) -> None:
    """Check that all ``programs`` are in ``tree``, by the search path ``path``.

    Raises:
        BuildFailed: a program is missing.
    """
    missing = [program for program in programs if not has_program(tree, program, path)]
    if missing:
        names = " and ".join(map(repr, missing))
        where = "" if all(map(_is_absolute, missing)) else f" in PATH ({path[:200]})"
        raise BuildFailed(
            f"the image lacks the program {names}{where} of the language file's command",
            "Add the package that has it, add a link in the recipe, or name another command.",
        )


def has_program(tree: Tree, program: str, path: str) -> bool:
    """Check whether ``tree`` has an executable file of this name or path.

    ``path`` is the search path. Relative paths and placeholders count as present.
    """
    if _is_absolute(program):
        return _is_program(tree, program)
    if "/" in program or "{" in program:
        # A program in the job's directory, from a build or among the job's files.
        return True
    places = (place for place in path.split(":") if place.startswith("/"))
    return any(_is_program(tree, f"{place}/{program}") for place in places)


def _is_absolute(program: str) -> bool:
    return program.startswith("/")


def _is_program(tree: Tree, path: str) -> bool:
    node = tree.find_untrusted(path)
    return node is not None and node.is_file and bool(node.mode & 0o111)
