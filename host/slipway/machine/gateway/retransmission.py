"""Time until a segment is sent again (RFC 6298)."""

from __future__ import annotations

# Seconds. A guest answers within a millisecond, and the wire loses nothing: a time-out means that
# the guest had no processor time. The bounds are the RFC's own.
FIRST_SECONDS = 1.0
LEAST_SECONDS = 1.0
MOST_SECONDS = 60.0
# After a SYN that had to be repeated (RFC 6298, 5.7).
AFTER_LOST_SYN_SECONDS = 3.0
_GRANULARITY = 0.001


class RetransmissionTime:
    """Retransmission time-out from measured round trips, with exponential back-off."""

    __slots__ = ("_base", "_smoothed", "_variance", "back_offs", "seconds")

    def __init__(self, first_seconds: float = FIRST_SECONDS) -> None:
        self._base = first_seconds
        self._smoothed: float | None = None
        self._variance = 0.0
        self.back_offs = 0
        self.seconds = first_seconds

    def add_sample(self, round_trip: float) -> None:
        """Take the round trip, in seconds, of a segment that was sent once (Karn's rule)."""
        if self._smoothed is None:
            self._smoothed = round_trip
            self._variance = round_trip / 2
        else:
            self._variance += (abs(self._smoothed - round_trip) - self._variance) / 4
            self._smoothed += (round_trip - self._smoothed) / 8
        estimate = self._smoothed + max(_GRANULARITY, 4 * self._variance)
        self._base = min(MOST_SECONDS, max(LEAST_SECONDS, estimate))
        self.reset()

    def back_off(self) -> None:
        """Double the time-out, after a segment stayed without answer."""
        self.back_offs += 1
        self.seconds = min(MOST_SECONDS, 2 * self.seconds)

    def reset(self) -> None:
        """Take back all back-offs, after an answer to new data."""
        self.back_offs = 0
        self.seconds = self._base

    def begin_data(self) -> None:
        """Forget the time-outs of the handshake, once the peer has answered."""
        if self.back_offs:
            self._base = max(self._base, AFTER_LOST_SYN_SECONDS)
        elif self._smoothed is None:
            self._base = max(self._base, FIRST_SECONDS)
        self.reset()
