"""Who is told what while an image is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """Three listeners, each of which may be left out; they are called from several threads.

    ``step`` gets a short sentence for each step ("packing 431 files"), which for one of many says
    which it is ("unpacking 3/57 bash"), ``notice`` one that is worth keeping, ``transfer``
    what of a download has come: its name, the bytes that are there, and those it has in total.
    """

    step: Callable[[str], None] = _ignore
    notice: Callable[[str], None] = _ignore
    transfer: Callable[[str, int, int], None] = _ignore
