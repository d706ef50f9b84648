"""How long to wait for a server, and how often to ask it again."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from slipway_initramfs.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    Result = TypeVar("Result")


class Interrupted(SourceUnavailable):
    """An exchange failed in a way that may pass; ``retry_after`` is the server's wish, seconds."""

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Times in seconds.

    ``connect`` is for a connection to stand, ``silence`` for the next byte. After ``attempts``
    failures in a row the last one counts; between them is a wait that doubles from ``first_wait``
    on up to ``longest_wait``. A server that asks for more than that is not waited for.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 60
    connect: float = 10
    silence: float = 30
    sleep: Callable[[float], None] = time.sleep

    def retry(self, operation: Callable[[], Result]) -> Result:
        """Return what ``operation`` returns, calling it again after Interrupted."""
        failures = 0
        while True:
            try:
                return operation()
            except Interrupted as error:
                failures += 1
                self.wait(failures, error)

    def wait(self, failures: int, error: Interrupted) -> None:
        """Wait after the failure of this number in a row; raise ``error`` if it was the last."""
        if failures >= self.attempts or (error.retry_after or 0) > self.longest_wait:
            raise error
        # Clients that failed together shall not come back together.
        spread = random.uniform(0.5, 1)  # noqa: S311  (no secret)
        wait = min(self.first_wait * 2 ** min(failures - 1, 16), self.longest_wait) * spread
        self.sleep(max(wait, error.retry_after or 0))


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` header names (RFC 9110, section 10.2.3)."""
    value = (value or "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a time zone
        return None
