from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from slipway_initramfs.errors import BuildFailed
from slipway_initramfs.oci.retry import Interrupted, RetryPolicy, retry_after


def test_the_result_of_the_last_attempt_is_returned() -> None:
    waits: list[float] = []
    outcomes: list[Exception | str] = [Interrupted("once"), Interrupted("twice"), "done"]

    def operation() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert RetryPolicy(sleep=waits.append).retry(operation) == "done"
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1


def test_does_not_repeat_other_failures() -> None:
    calls: list[str] = []

    def operation() -> None:
        calls.append("called")
        raise BuildFailed("for good")

    with pytest.raises(BuildFailed, match="for good"):
        RetryPolicy().retry(operation)

    assert calls == ["called"]


def test_waits_for_a_bounded_time() -> None:
    waits: list[float] = []

    RetryPolicy(attempts=2000, longest_wait=5, sleep=waits.append).wait(1500, Interrupted("again"))

    assert 2.5 <= waits[0] <= 5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("9" * 400, None),
        ("²", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00", None),
        ("Wed, 21 Oct 999999999 07:28:00 GMT", None),
    ],
)
def test_reads_how_long_to_wait(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_reads_when_to_come_back() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)

    seconds = retry_after(later)

    assert seconds is not None
    assert 3000 < seconds <= 3600
