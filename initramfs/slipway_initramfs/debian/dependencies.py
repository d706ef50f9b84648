"""Dependencies of Debian packages, and the selection of the packages that an image gets.

apt resolves the needs of an installed system. An image needs less, as none of its packages is
configured: packages that only maintainer scripts call are left out, with their own dependencies.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_NEEDED = re.compile(r"[ |](?:Pre)?Depends: <?(?P<name>[^<>\s]+)>?")
_PROVIDER = re.compile(r" {4}(?P<name>\S+)")


def parse(text: str, known: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return each package's dependencies within ``known``, from ``apt-cache depends`` output.

    Of alternatives and of the providers of a virtual package all known packages count.
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
    """Return ``wanted`` and their dependencies, except those that only ``cut`` packages need."""
    reached: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += needs.get(name, frozenset()) - frozenset(cut)
    return frozenset(reached)
