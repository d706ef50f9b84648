"""Patterns of paths: ``*`` within a name, ``**`` across directories, ``{a,b}`` choices."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def compile_globs(globs: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that fully matches the relative paths of any of ``globs``."""
    return re.compile("|".join(map(_translate, globs)), re.DOTALL)


def _translate(glob: str) -> str:
    out = []
    for piece in re.findall(r"/?\*\*/?|\*|\{[^{}]*\}|[^*{/]+|[/{]", glob.strip("/")):
        if "**" in piece:
            start = "/" if piece.startswith("/") else ""
            out.append(start + ("(?:.*/)?" if piece.endswith("/") else ".*"))
        elif piece == "*":
            out.append("[^/]*")
        elif piece.startswith("{") and len(piece) > 1:
            choices = (_translate(choice) for choice in piece[1:-1].split(","))
            out.append(f"(?:{'|'.join(choices)})")
        else:
            out.append(re.escape(piece))
    return "".join(out)
