"""C and C++: sources that another source includes are a part of that one, and not compiled."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# A caller's files are read while others wait: what is included stands near the beginning.
MAX_READ: Final = 1024 * 1024
MAX_READ_TOGETHER: Final = 4 * 1024 * 1024
# Each alternative takes all that it has looked at, closed or not: no text costs more than another.
_TOKEN = re.compile(
    rb"""
    //[^\n]*
    | /\*.*?(?:\*/|\Z)
    | ^[ \t]*\#[ \t]*include[ \t]*"(?P<path>[^"\n]+)"
    | "[^"\\\n]*(?:\\.[^"\\\n]*){0,1000}"?
    | '(?:\\.|[^'\\\n])'
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


def find_included(sources: Iterable[str], files: Mapping[str, bytes]) -> frozenset[str]:
    """The paths of those of ``files`` that ``sources`` include by their names, and these in turn.

    This is what the text says: a line that a condition leaves out counts as well.
    """
    included: set[str] = set()
    waiting = list(sources)
    seen = set(waiting)
    left = MAX_READ_TOGETHER
    for path in waiting:  # which grows
        data = files[path][: min(MAX_READ, left)]
        left -= len(data)
        for name in _names(data) if b"include" in data else ():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            if target in files and target != path:
                included.add(target)
                waiting += () if target in seen else (target,)
                seen.add(target)
    return frozenset(included)


def _names(data: bytes) -> list[str]:
    found = (match["path"] for match in _TOKEN.finditer(data))
    return [name.decode("utf-8", "surrogateescape") for name in found if name is not None]
