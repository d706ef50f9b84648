"""Retries: time limits for a server, and the repetition of failed exchanges."""

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
    """Temporary failure of an exchange; ``retry_after`` is the server's wish in seconds."""

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits and waits, in seconds.

    ``connect`` limits a connection attempt, ``silence`` the wait for the next byte. The failure
    number ``attempts`` in a row is final; between failures the wait doubles from ``first_wait`` up
    to ``longest_wait``. If a server asks for a longer wait, the failure is final.
    """

    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 60
    connect: float = 10
    silence: float = 30
    sleep: Callable[[float], None] = time.sleep

    def retry(self, operation: Callable[[], Result]) -> Result:
        """Call ``operation`` until it succeeds, and return its result.

        Raises:
            Interrupted: the last attempt failed.
        """
        failures = 0
        while True:
            try:
                return operation()
            except Interrupted as error:
                failures += 1
                self.wait(failures, error)

    def wait(self, failures: int, error: Interrupted) -> None:
        """Wait after the failure number ``failures`` in a row.

        Raises:
            Interrupted: the failure is final; this is ``error``.
        """
        if failures >= self.attempts or (error.retry_after or 0) > self.longest_wait:
            raise error
        # Spread the retries of clients that failed at the same time.
        spread = random.uniform(0.5, 1)  # noqa: S311  (no secret)
        wait = min(self.first_wait * 2 ** min(failures - 1, 16), self.longest_wait) * spread
        self.sleep(max(wait, error.retry_after or 0))


def retry_after(value: str | None) -> float | None:
    """Return the seconds in a ``Retry-After`` header (RFC 9110, section 10.2.3), or None."""
    value = (value or "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a time zone
        return None
