"""Alternatives: names such as ``awk`` or ``libblas.so.3`` that maintainer scripts install.

Scripts are not run. But nearly all of them call update-alternatives with literal words, which can
be parsed; computed words (variables, loops) are left to links in recipes.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway_initramfs.rootfs.tree import Tree

_COMPUTED = re.compile(r"[$`*?]")
_LINE_END = re.compile(r"\\\n")


@dataclass(frozen=True, slots=True)
class Alternative:
    """A ``link`` to ``target``; for equal links the highest ``priority`` wins."""

    link: str
    target: str
    priority: int


def parse_script(script: str) -> list[Alternative]:
    """Return the alternatives that a maintainer script installs, and their slaves."""
    found = []
    for line in _LINE_END.sub(" ", script).splitlines():
        _, called, arguments = line.partition("update-alternatives ")
        if called and "--install" in arguments:
            found += _read_call(arguments)
    return found


def add_links(tree: Tree, alternatives: Iterable[Alternative]) -> None:
    """Add the links whose target exists, in free places."""
    best: dict[str, Alternative] = {}
    for choice in sorted(alternatives, key=lambda choice: choice.priority):
        if tree.find(choice.target.lstrip("/")) is not None:
            best[choice.link] = choice
    for link, choice in best.items():
        if tree.find(link, follow=False) is None:
            tree.add_symlink(link, choice.target)


def _read_call(arguments: str) -> list[Alternative]:
    try:
        words = shlex.split(arguments, comments=True)
    except ValueError:
        return []
    found = []
    priority = 0
    while words:
        word = words.pop(0)
        if word == "--install" and len(words) >= 4 and words[3].lstrip("-").isdecimal():
            link, _, target = words[:3]
            priority = int(words[3])
        elif word == "--slave" and len(words) >= 3:
            link, _, target = words[:3]
        else:
            continue
        if _is_path(link) and _is_path(target):
            found.append(Alternative(link[1:], target, priority))
    return found


def _is_path(text: str) -> bool:
    plain = text.startswith("/") and not _COMPUTED.search(text)
    return plain and ".." not in text.split("/")
