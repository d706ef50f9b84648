"""Progress of a build, for three listeners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """Three optional listeners, which are called from several threads.

    ``step`` receives a short sentence for each step ("packing 431 files"), with a number if there
    are several of a kind ("unpacking 3/57 bash"). ``notice`` receives sentences worth keeping.
    ``transfer`` receives the state of a download: name, bytes received, bytes in total.
    """

    step: Callable[[str], None] = _ignore
    notice: Callable[[str], None] = _ignore
    transfer: Callable[[str, int, int], None] = _ignore


def format_count(number: int, noun: str) -> str:
    """Return ``number`` with the ``noun``, which forms its plural with an s: "1 layer"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
