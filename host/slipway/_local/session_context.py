"""Context of a session: the parts of its runtime that it uses, and its own settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._model.options import Options
    from slipway._run.slot import SlotContext
    from slipway_initramfs.languages.language import Language


class OpenSession(Protocol):
    """A session that its runtime ends when the runtime closes."""

    async def drain(self) -> None:
        """Wait for the end of its runs, then close it."""

    async def close(self) -> None:
        """End its runs, and close it."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """Parts that the sessions of one runtime share.

    ``sessions`` are all that have a slot or wait for one; ``check_open`` raises Busy while the
    runtime is being closed.
    """

    slots: SlotContext
    sessions: set[OpenSession]
    check_open: Callable[[], None]


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """Settings of a session, which its forks have as well."""

    language: Language
    options: Options
    key: str
    idle_seconds: float
