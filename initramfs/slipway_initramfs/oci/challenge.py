"""Challenges of a server: the header ``WWW-Authenticate``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CHALLENGES = 16
MAX_PARAMETERS = 32

_BETWEEN = re.compile(r"[\s,]*")
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Unquoted values that are not tokens (a scope has colons) are accepted.
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(rf"({_WORD})(?=[\s,]|$)")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_QUOTED_PAIR = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """Way to authenticate: ``scheme`` and the names of ``parameters`` are in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return all challenges of a response's ``WWW-Authenticate`` headers, in order.

    A header may hold several (RFC 9110, section 11.6.1). Text after a syntax error is ignored.
    """
    found: list[Challenge] = []
    for header in headers:
        position = 0
        begun = False
        while len(found) <= MAX_CHALLENGES:
            position = _find_end(_BETWEEN.match(header, position), position)
            if begun and (match := _PARAMETER.match(header, position)):
                name, quoted, bare = match.groups()
                if len(found[-1].parameters) < MAX_PARAMETERS:
                    value = bare if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
                    found[-1].parameters.setdefault(name.lower(), value)
            elif match := _SCHEME.match(header, position):
                found.append(Challenge(match[1].lower()))
                begun = True
                position = match.end()
                match = _TOKEN68.match(header, position)
            else:
                break
            position = _find_end(match, position)
    return found[:MAX_CHALLENGES]


def _find_end(match: re.Match[str] | None, position: int) -> int:
    return match.end() if match else position
