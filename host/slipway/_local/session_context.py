"""Context of a session: parts of the runtime, and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._model.options import Options
    from slipway._run.slot import SlotContext
    from slipway._util.shares import Share
    from slipway_initramfs.languages.language import Language


class OpenSession(Protocol):
    """Session that the runtime closes at the latest when the runtime closes."""

    async def drain(self) -> None:
        """Wait for the end of all runs, then close the session."""

    async def close(self) -> None:
        """Cancel all runs, and close the session."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """Parts that the sessions of one runtime share.

    ``sessions`` are the open ones, and those that wait for a slot; ``check_open`` raises Busy while
    the runtime is being closed.
    """

    slots: SlotContext
    sessions: set[OpenSession]
    check_open: Callable[[], None]


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """Settings of a session and of all forks of the session."""

    language: Language
    options: Options
    share: Share
    idle_seconds: float
