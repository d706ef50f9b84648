"""Which of the packages that apt resolves an image gets: those that are reached without some.

apt resolves what an installed system would need. An image needs less: nothing of it is configured,
so that what maintainer scripts alone call stays out, and with it what only those packages need.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_NEEDED = re.compile(r"[ |](?:Pre)?Depends: <?(?P<name>[^<>\s]+)>?")
_PROVIDER = re.compile(r" {4}(?P<name>\S+)")


def parse(text: str, known: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return what each package needs of ``known``, from what ``apt-cache depends`` says.

    Of alternatives and of a virtual package's providers all that are known count.
    """
    needed: dict[str, set[str]] = {}
    current: set[str] = set()
    for line in text.splitlines():
        if match := _NEEDED.match(line[1:]) or _PROVIDER.fullmatch(line):
            current.add(match["name"])
        elif line and not line[0].isspace():
            current = needed.setdefault(line.strip(), set())
    return {name: frozenset(found.intersection(known)) for name, found in needed.items()}


def reach(
    wanted: Iterable[str], cut: Collection[str], needs: Mapping[str, frozenset[str]]
) -> frozenset[str]:
    """Return ``wanted`` and what they need, but nothing that is reached through ``cut`` alone."""
    reached: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += needs.get(name, frozenset()) - frozenset(cut)
    return frozenset(reached)
