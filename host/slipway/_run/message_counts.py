"""Counts of the messages of a guest that neither credit nor their order bounds."""

from __future__ import annotations

from collections import Counter

from slipway._util.errors import UnknownOutcome
from slipway_protocol import messages as m
from slipway_protocol.framing import BadFrame

# For one job, or one greeting. An agent sends a handful of each; a serial line may have noise.
MOST: dict[type, tuple[int, str]] = {
    m.Log: (1000, "lines for the log"),
    m.Awake: (16, "Awake messages"),
    m.Ready: (16, "Ready messages"),
    m.Exited: (2, "Exited messages"),
    BadFrame: (4096, "bad frames"),
}


class MessageCounts:
    """Counts by kind of message, from the beginning of a job or greeting."""

    def __init__(self) -> None:
        self._counts: Counter[type] = Counter()

    def begin(self) -> None:
        """Count anew."""
        self._counts.clear()

    def count(self, kind: type) -> None:
        """Count a message or bad frame of this ``kind``.

        Raises:
            UnknownOutcome: the guest has sent too many.
        """
        if kind not in MOST:
            return
        self._counts[kind] += 1
        most, name = MOST[kind]
        if self._counts[kind] > most:
            raise UnknownOutcome(f"the guest broke the protocol: it sent more than {most} {name}")
