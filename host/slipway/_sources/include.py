"""Includes of C and C++: a source that another source includes is not compiled by itself."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final

from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Bytes. Files of callers are read while other runs wait; includes stand near the beginning.
MAX_READ: Final = MIB
MAX_READ_TOGETHER: Final = 4 * MIB
# Each alternative consumes all it has examined, closed or not: the cost is linear for any text.
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
    """Return the paths of ``files`` that ``sources`` include by name, directly or indirectly.

    Only the text counts: an include inside of a false condition counts as well.
    """
    included: set[str] = set()
    waiting = list(sources)
    seen = set(waiting)
    left = MAX_READ_TOGETHER
    for path in waiting:  # grows meanwhile
        data = files[path][: min(MAX_READ, left)]
        left -= len(data)
        for name in _find_names(data) if b"include" in data else ():
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            if target in files and target != path:
                included.add(target)
                waiting += () if target in seen else (target,)
                seen.add(target)
    return frozenset(included)


def _find_names(data: bytes) -> list[str]:
    found = (match["path"] for match in _TOKEN.finditer(data))
    return [name.decode("utf-8", "surrogateescape") for name in found if name is not None]
